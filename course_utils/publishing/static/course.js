// Calculators and exercises of a page: reads the fields, asks the page's Python, shows what it says.
(() => {
  "use strict";
  const here = new URL("./", document.currentScript.src);
  const STARTING = "Starting Python in this page, once …";
  const SECONDS = 30; // that a check may take once Python has started
  const NO_WORKER = "Python could not be started in this page. If you opened it as a file, serve its folder instead.";

  // -- the page's Python: one worker for the page, started at the first request -----------------------------------------
  const python = {
    worker: null,
    waiting: new Map(), // number of a request → its promise's functions
    last: 0,

    start() {
      this.worker = new Worker(new URL("worker.mjs", here), { type: "module" });
      this.worker.onmessage = ({ data }) => this.answered(data);
      this.worker.onerror = (event) => {
        event.preventDefault?.();
        this.stop(NO_WORKER);
      };
    },

    answered({ failed, ready, number, result, error }) {
      if (failed !== undefined)
        return this.stop(`Python could not be started in this page (${failed}). A change tries again.`);
      if (ready !== undefined) return this.waiting.get(ready)?.ready();
      const promise = this.waiting.get(number);
      this.waiting.delete(number);
      if (error === undefined) promise?.resolve(result);
      else promise?.reject(new Error(error));
    },

    // A request of `course_utils.in_browser`; `ready` is called when Python has started and sets to work.
    ask(call, args, ready = () => {}) {
      return new Promise((resolve, reject) => {
        try {
          if (!this.worker) this.start();
        } catch {
          reject(new Error(NO_WORKER)); // a page that was opened as a file may start no worker
          return;
        }
        const number = ++this.last;
        this.waiting.set(number, { resolve, reject, ready });
        this.worker.postMessage({ number, request: { call, arguments: args } });
      });
    },

    // Ends what is running; the next request starts Python anew.
    stop(why) {
      this.worker?.terminate();
      this.worker = null;
      const waiting = [...this.waiting.values()];
      this.waiting.clear();
      for (const promise of waiting) promise.reject(new Error(why));
    },
  };
  window.coursePython = python; // for tests

  // -- calculators ------------------------------------------------------------------------------------------------------
  function choices(form) {
    const found = {};
    for (const field of form.elements) {
      if (!field.name) continue;
      if (field.type === "checkbox") found[field.name] = field.checked;
      else if (field.type === "number") found[field.name] = field.value === "" ? null : field.valueAsNumber;
      else found[field.name] = JSON.parse(field.value);
    }
    return found;
  }

  function calculator(room) {
    const form = room.querySelector("form");
    const summary = room.querySelector(".course-summary");
    const details = room.querySelector(".course-details");
    const atBuild = { summary: summary.textContent, details: details.innerHTML, valid: true };
    let newest = 0;
    let timer = 0;

    function show(answer) {
      room.removeAttribute("aria-busy");
      room.classList.toggle("course-wrong", !answer.valid);
      summary.textContent = answer.summary;
      details.innerHTML = answer.details;
    }

    async function compute() {
      const mine = ++newest;
      room.setAttribute("aria-busy", "true");
      if (!python.worker) summary.textContent = STARTING;
      try {
        const answer = await python.ask("calculate", { id: room.dataset.calculator, choices: choices(form) });
        if (mine === newest) show(answer); // else a later change has asked already
      } catch (error) {
        if (mine === newest) show({ summary: error.message, details: "", valid: false });
      }
    }

    // While somebody types a number, wait for the pause.
    form.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(compute, 200);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => {
      clearTimeout(timer);
      newest += 1;
      show(atBuild);
    });
    form.reset(); // a browser that comes back to the page may have kept other choices than the answer is for
  }

  // -- exercises --------------------------------------------------------------------------------------------------------
  const store = {
    read(id) {
      try {
        return JSON.parse(localStorage.getItem(`finetuning-course/exercise/${id}`)) ?? {};
      } catch {
        return {}; // storage that is forbidden or broken costs the memory of the page and nothing else
      }
    },
    write(id, values) {
      try {
        localStorage.setItem(`finetuning-course/exercise/${id}`, JSON.stringify(values));
      } catch {
        /* as above */
      }
    },
  };

  function exercise(room) {
    const editor = room.querySelector("textarea");
    if (!editor) return; // one that is run in the notebook
    const id = room.dataset.exercise;
    const stub = editor.value;
    const [check, stop, reset] = ["check", "stop", "reset"].map((name) => room.querySelector(`[data-do=${name}]`));
    const summary = room.querySelector(".course-summary");
    const printed = room.querySelector(".course-printed");
    const hint = room.querySelector(".course-hint");
    let kept = store.read(id);

    function keep(changes) {
      kept = { ...kept, ...changes };
      store.write(id, kept);
      hint.hidden = !(kept.tries >= Number(room.dataset.hintFrom));
      room.classList.toggle("course-passed", Boolean(kept.passed));
    }

    function show(text, output, state) {
      summary.textContent = text;
      printed.textContent = output;
      printed.hidden = !output;
      room.classList.toggle("course-wrong", state === "wrong");
    }

    function busy(is) {
      check.disabled = is;
      stop.hidden = !is;
      room.toggleAttribute("aria-busy", is);
    }

    function marked(result) {
      const state = result.passed ? "passed" : "not yet";
      const worth = result.worth === 1 ? "1 point" : `${result.worth} points`;
      show(`${id}: ${result.points} of ${worth} (${state}). ${result.message}`, result.printed, result.passed ? "right" : "wrong");
      const tries = result.passed ? 0 : (kept.tries ?? 0) + 1;
      keep({ tries, passed: result.passed, points: result.points });
    }

    async function run() {
      busy(true);
      show(python.worker ? "Checking …" : STARTING, "", "");
      let limit = 0;
      const begun = () => {
        summary.textContent = "Checking …";
        limit = setTimeout(() => python.stop(`Stopped after ${SECONDS} seconds. Is there a loop that never ends?`), 1000 * SECONDS);
      };
      try {
        marked(await python.ask("check", { id, source: editor.value }, begun));
      } catch (error) {
        show(error.message, "", "wrong");
      }
      clearTimeout(limit);
      busy(false);
      if (document.activeElement === document.body) check.focus(); // Stop is hidden now, or Check was disabled
    }

    check.addEventListener("click", run);
    stop.addEventListener("click", () => python.stop("Stopped. Python starts anew at the next check."));
    reset.addEventListener("click", () => {
      editor.value = stub;
      show("", "", "");
      keep({ source: stub, tries: 0 });
      editor.focus();
    });
    editor.addEventListener("input", () => keep({ source: editor.value }));
    // A new line begins where the last one did. Tab stays what it is, the way out of the editor, and Escape is another.
    editor.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.isComposing) return (check.disabled ? reset : check).focus();
      if (event.key !== "Enter" || event.isComposing || event.ctrlKey || event.metaKey) return;
      const before = editor.value.slice(0, editor.selectionStart).split("\n").pop();
      const indent = before.match(/^ */)[0] + (before.trimEnd().endsWith(":") ? "    " : "");
      event.preventDefault();
      editor.setRangeText(`\n${indent}`, editor.selectionStart, editor.selectionEnd, "end");
      editor.dispatchEvent(new Event("input", { bubbles: true }));
    });

    editor.value = kept.source ?? stub;
    keep({});
    if (kept.passed) summary.textContent = `${id}: passed before, in this browser.`;
  }

  function begin() {
    document.querySelectorAll("[data-calculator]").forEach(calculator);
    document.querySelectorAll("[data-exercise]").forEach(exercise);
  }
  begin(); // a deferred script: the page has been read
})();
