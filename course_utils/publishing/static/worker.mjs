// The page's Python: starts Pyodide, unpacks the course, and answers one request after the other.
// The course comes from the folder of this file, Pyodide from the one beside it, whose name gets its version at build.
import { loadPyodide } from "../pyodide/pyodide.mjs";

async function start() {
  const here = new URL("./", import.meta.url);
  const course = fetch(new URL("course.zip", here)).then((response) => {
    if (!response.ok) throw new Error(`course.zip: ${response.status}`);
    return response.arrayBuffer();
  });
  const python = await loadPyodide({ indexURL: new URL("../pyodide/", here).href });
  python.unpackArchive(await course, "zip", { extractDir: "/course" });
  python.runPython("import sys; sys.path.insert(0, '/course'); from course_utils.in_browser import call");
  return python.globals.get("call");
}

const started = start();

self.onmessage = async ({ data }) => {
  let call;
  try {
    call = await started;
  } catch (error) {
    self.postMessage({ failed: String(error.message || error) }); // the page ends this worker; its next request tries again
    return;
  }
  self.postMessage({ ready: data.number });
  try {
    self.postMessage({ number: data.number, result: JSON.parse(call(JSON.stringify(data.request))) });
  } catch (error) {
    self.postMessage({ number: data.number, error: String(error.message || error) });
  }
};
