// What the book's pages do by themselves: terms, pictures, guesses, what has been read. No library; nothing leaves the browser.
"use strict";

// -- what is kept on this device -----------------------------------------------------------------------------------------

const KEY = "finetuning-course";

function kept() {
  try {
    return { read: {}, guesses: {}, places: {}, ...JSON.parse(localStorage.getItem(KEY) || "{}") };
  } catch {
    return { read: {}, guesses: {}, places: {} }; // no storage, or something that is not ours
  }
}

function keep(change) {
  const all = kept();
  change(all);
  try {
    localStorage.setItem(KEY, JSON.stringify(all));
  } catch {
    // a browser that keeps nothing: the page works, and forgets
  }
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const lessonOf = (address) => (/notebooks\/(\d\d)_/.exec(address) || [])[1];

// -- what has been read --------------------------------------------------------------------------------------------------

function showProgress() {
  const read = kept().read;
  document.querySelectorAll(".bd-sidebar-primary a.reference, .book-step").forEach((place) => {
    const link = place.matches("a") ? place : place.querySelector("a.sd-stretched-link");
    const number = link && lessonOf(link.getAttribute("href") === "#" ? location.pathname : link.getAttribute("href"));
    if (!number) return;
    place.querySelectorAll(".book-tick").forEach((tick) => tick.remove());
    place.classList.toggle("book-is-read", Boolean(read[number]));
    if (!read[number]) return;
    const tick = element("span", { class: "book-tick" }, element("span", { "aria-hidden": "true" }, "✓"));
    tick.append(element("span", { class: "visually-hidden" }, " read"));
    (place.matches("a") ? place : place.querySelector(".sd-card-title") || place).append(tick);
  });
  showOverview(read);
}

function showOverview(read) {
  const overview = document.querySelector(".book-overview");
  if (!overview) return;
  const steps = [...document.querySelectorAll(".book-step a.sd-stretched-link")];
  const done = steps.filter((step) => read[lessonOf(step.href)]).length;
  overview.hidden = done === 0;
  overview.querySelector("progress").value = done;
  const text = overview.querySelector("p");
  text.textContent = `You have read ${done} of ${steps.length} lessons. `;
  const next = steps.find((step) => !read[lessonOf(step.href)]);
  if (next) {
    const title = next.closest(".book-step").querySelector(".sd-card-title").textContent.trim();
    text.append("Next: ", element("a", { href: next.getAttribute("href") }, title), ". ");
  }
  const forget = element("button", { type: "button", class: "book-quiet" }, "Forget all marks");
  forget.addEventListener("click", () => {
    keep((all) => (all.read = {}));
    showProgress();
  });
  text.append(forget);
}

function addReadMark() {
  const number = lessonOf(location.pathname);
  const article = document.querySelector("article.bd-article");
  if (!number || !article) return;
  const button = element("button", { type: "button" });
  const show = () => {
    const read = Boolean(kept().read[number]);
    button.setAttribute("aria-pressed", String(read));
    button.textContent = read ? "✓ Read" : "Mark as read";
  };
  button.addEventListener("click", () => {
    keep((all) => {
      if (all.read[number]) delete all.read[number];
      else all.read[number] = new Date().toISOString().slice(0, 10);
    });
    show();
    showProgress();
  });
  show();
  const note = element("span", {}, "Kept in this browser only.");
  article.append(element("div", { class: "book-read", role: "group", "aria-label": "your progress" }, button, note));
}

// -- where a long page was left ------------------------------------------------------------------------------------------

function rememberPlace() {
  const number = lessonOf(location.pathname);
  const sections = [...document.querySelectorAll("article.bd-article section > h2")];
  if (!number || sections.length < 2) return;
  const place = kept().places[number];
  const left = sections.find((heading) => heading.parentElement.id === place);
  if (left && left !== sections[0] && !location.hash) {
    const name = left.firstChild.textContent.trim();
    const link = element("a", { href: `#${place}` }, `Go on at “${name}”`);
    document.querySelector("article.bd-article h1").after(element("p", { class: "book-continue" }, link));
  }
  let waiting = 0;
  window.addEventListener("scroll", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const above = lastAbove(sections);
      if (above) keep((all) => (all.places[number] = above.parentElement.id));
      markContents(above?.parentElement);
    }, 500);
  });
}

function lastAbove(headings) {
  return headings.filter((heading) => heading.getBoundingClientRect().top < window.innerHeight / 2).pop();
}

// The theme marks a heading in the page's contents when it comes into sight; after a jump, the one before stays marked.
function markContents(section) {
  const links = [...document.querySelectorAll("#pst-page-toc-nav a[href^='#']")];
  const marked = links.find((link) => link.classList.contains("active"));
  if (!section || (marked && section.contains(document.getElementById(marked.hash.slice(1))))) return;
  links.forEach((link) => {
    const here = link.hash === `#${section.id}`;
    link.classList.toggle("active", here);
    if (here) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  });
}

// -- terms: the meaning in place -----------------------------------------------------------------------------------------

function explainTerms() {
  if (!document.querySelector(".book-term") || !("popover" in HTMLElement.prototype)) return; // the link still leads there
  const name = element("strong", { id: "book-meaning-name" });
  const text = element("p");
  const more = element("a", {}, "In the glossary");
  const close = element("button", { type: "button", class: "book-quiet" }, "Close");
  const card = element("div", { id: "book-meaning", popover: "auto", role: "dialog", "aria-labelledby": name.id });
  card.append(name, text, element("div", {}, more, close));
  document.body.append(card);
  let from = null;
  close.addEventListener("click", () => card.hidePopover());
  card.addEventListener("keydown", (event) => event.key === "Escape" && card.hidePopover());
  card.addEventListener("toggle", (event) => {
    if (event.newState === "closed" && from && (card.contains(document.activeElement) || document.activeElement === document.body))
      from.focus({ preventScroll: true });
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.book-term");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    from = link;
    name.textContent = link.dataset.term;
    text.textContent = link.dataset.meaning;
    more.href = link.getAttribute("href");
    card.showPopover();
    place(card, link.getBoundingClientRect());
    more.focus({ preventScroll: true });
  });
}

// -- menus: on a phone the theme shows them in dialogs over the page, which stay when they have led somewhere ---------------

function closeMenus() {
  document.querySelectorAll("#pst-primary-sidebar-modal, #pst-secondary-sidebar-modal").forEach((dialog) => {
    dialog.addEventListener("click", (event) => event.target.closest("a[href]") && dialog.close());
  });
}

// -- search: excerpts of what is written, not of code --------------------------------------------------------------------

function searchTextOnly() {
  if (typeof Search === "undefined" || !Search.htmlToText) return;
  const whole = Search.htmlToText;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    page.querySelectorAll(".cell_input, .highlight, .course-room, details.hide > summary").forEach((part) => part.remove());
    return whole(page.documentElement.outerHTML, anchor);
  };
}

function place(card, word) {
  const room = document.documentElement.clientWidth - card.offsetWidth - 8;
  card.style.left = `${Math.max(8, Math.min(word.left, room))}px`;
  const below = word.bottom + 6;
  const fits = below + card.offsetHeight < window.innerHeight;
  card.style.top = `${fits ? below : Math.max(8, word.top - card.offsetHeight - 6)}px`;
}

// -- pictures in full size -----------------------------------------------------------------------------------------------

function openPictures() {
  const figures = document.querySelectorAll("a.book-figure");
  if (!figures.length || !window.HTMLDialogElement) return; // the link still opens the picture
  const close = element("button", { type: "button" }, "Close");
  const frame = element("div", { class: "book-zoom-frame", tabindex: "0", role: "group", "aria-label": "picture in full size" });
  const words = element("p");
  const dialog = element("dialog", { class: "book-zoom", "aria-label": "picture in full size" }, close, frame, words);
  document.body.append(dialog);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  figures.forEach((figure) => {
    figure.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      const small = figure.querySelector("img");
      words.textContent = small.alt;
      frame.replaceChildren(element("img", { src: figure.getAttribute("href"), alt: "" }));
      dialog.showModal();
    });
  });
}

// -- guesses -------------------------------------------------------------------------------------------------------------

function askForGuesses() {
  document.querySelectorAll(".book-predict").forEach((box) => {
    const form = box.querySelector("form");
    const key = box.dataset.key;
    const said = form.querySelector("output");
    const show = () => {
      const guess = kept().guesses[key];
      said.textContent = guess ? `Your guess: ${guess}. The answer is further down.` : "";
      document.querySelectorAll(`.book-reveal[data-key="${key}"] .book-said`).forEach((place) => {
        place.hidden = !guess;
        place.textContent = guess ? `You said ${guess}.` : "";
      });
    };
    const guess = kept().guesses[key];
    form.querySelectorAll("input").forEach((input) => {
      if (input.type === "radio") input.checked = input.value === guess;
      else input.value = guess || "";
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const value = (new FormData(form).get(key) || "").toString().trim();
      const number = form.querySelector('input[inputmode="decimal"]');
      const takenBack = value === "" && kept().guesses[key];
      if (number && !takenBack && !/^[+-]?[0-9]+([.,][0-9]+)?$/.test(value.replace(/[\s%]/g, ""))) {
        said.textContent = "A number, please: a rough guess is enough.";
        number.focus();
        return;
      }
      keep((all) => {
        if (value) all.guesses[key] = value;
        else delete all.guesses[key];
      });
      show();
    });
    form.hidden = false;
    show();
  });
}

// -- long cells on a phone -----------------------------------------------------------------------------------------------

function foldLongCells() {
  if (!matchMedia("(max-width: 37.5rem)").matches) return;
  document.querySelectorAll(".cell_input, .cell_output").forEach((cell) => {
    const most = innerHeight * (cell.matches(".cell_input") ? 0.2 : 0.35);
    if (cell.closest("details") || cell.offsetHeight < 1.5 * most) return;
    const button = element("button", { type: "button", class: "book-quiet book-unfold" }, "Show all");
    const unfold = () => {
      cell.style.maxHeight = "";
      cell.classList.remove("book-folded");
      button.remove();
    };
    cell.style.maxHeight = `${most}px`;
    cell.classList.add("book-folded");
    cell.addEventListener("focusin", unfold, { once: true }); // who comes by keyboard sees where the focus is
    button.addEventListener("click", unfold);
    cell.after(button);
  });
}

// -- where the theme leaves something to do ------------------------------------------------------------------------------

// From a file, a page may not read its neighbours: search then shows titles without passages.
/* global DOCUMENTATION_OPTIONS */
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

function start() {
  showProgress();
  addReadMark();
  rememberPlace();
  closeMenus();
  searchTextOnly();
  explainTerms();
  openPictures();
  askForGuesses();
  foldLongCells();
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
