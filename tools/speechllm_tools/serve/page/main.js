// What the page's controls do.

import { models } from "./api.js";
import { Panel } from "./panel.js";
import { Player } from "./player.js";
import { record, samplesOf } from "./sound.js";

const find = id => document.getElementById(id);
const player = new Player(find("audio"), find("wave"));
const panels = [new Panel(say), new Panel(say)];
const VERBS = { transcribe: "Transcribe", translate: "Translate", ask: "Ask" };
let systems = [];  // each by the first of its names; the texts of the first are shown, of another beside them
let file = null;
let recording = null;
let running = null;

const task = () => find("form").elements.task.value;

function say(found) {
  if (found instanceof Error) tell(found);
  else find("status").textContent = found;
}

function tell(error) {
  find("error").textContent = error?.message ?? "";
  find("error").hidden = !error;
}

async function connect() {
  try {
    const { data } = await models(find("key").value);
    systems = data.filter((model, place) => data.findIndex(other => other.system === model.system) === place);
    find("model").textContent = `Model: ${systems[0].id}`;
    find("language").placeholder = systems[0].language;
    find("beside").length = 1;
    for (const { id } of systems.slice(1)) find("beside").add(new Option(id, id));
    find("beside-row").hidden = systems.length < 2;
    tell(null);
  } catch (error) {
    if (error.status === 401) find("key-row").hidden = false;
    if (error.status !== 401 || find("key").value) tell(error);
  }
  refresh();
}

function refresh() {
  for (const row of document.querySelectorAll("[data-tasks]")) row.hidden = !row.dataset.tasks.includes(task());
  find("run").textContent = VERBS[task()];
  find("run").disabled = !systems.length || !file || !!running || !!recording;
  find("record").disabled = !!running;
  find("cancel").hidden = !running;
}

async function take(chosen) {
  file = chosen;
  tell(null);
  find("result").hidden = true;
  find("name").textContent = file.name;
  find("player").hidden = false;
  player.load(file);
  refresh();
  const samples = await samplesOf(file, 8000);
  if (file === chosen) player.showSamples(samples);
}

async function toggleRecording() {
  const button = find("record");
  try {
    if (recording) {
      const { stop } = recording;
      recording = null;
      await take(await stop());
    } else {
      find("audio").pause();
      recording = await record();
    }
    tell(null);
  } catch (error) {
    recording = null;
    tell(error.name === "NotAllowedError" ? new Error("The browser was not allowed to use the microphone.") : error);
  }
  button.setAttribute("aria-pressed", String(!!recording));
  button.textContent = recording ? "Stop recording" : "Record";
  find("record-note").textContent = recording ? "Recording…" : "";
  refresh();
}

async function run(event) {
  event.preventDefault();
  if (find("run").disabled) return;
  running = new AbortController();
  const start = Date.now();
  const watch = setInterval(() => { find("status").textContent = `${Math.round((Date.now() - start) / 1000)} s`; }, 1000);
  find("status").textContent = "Working…";
  tell(null);
  find("result").hidden = true;
  for (const panel of panels) panel.root.hidden = true;
  refresh();
  try {
    // One that is refused hides no other's text.
    const ends = await Promise.allSettled(asked().map((model, place, all) => fill(panels[place], model, all.length > 1)));
    player.light();
    find("result").hidden = ends.every(end => end.status === "rejected");
    find("result").scrollIntoView({ block: "nearest" });
    const refused = ends.find(end => end.status === "rejected");
    if (refused) throw refused.reason;
    find("status").textContent = `Done in ${((Date.now() - start) / 1000).toFixed(1)} s`;
  } catch (error) {
    find("status").textContent = error.name === "AbortError" ? "Cancelled" : "";
    if (error.status === 401) find("key-row").hidden = false;
    if (error.name !== "AbortError") tell(error);
  } finally {
    clearInterval(watch);
    running = null;
    refresh();
  }
}

// The systems whose texts are asked for.
function asked() {
  return [systems[0], ...systems.filter(({ id }) => id === find("beside").value)];
}

async function fill(panel, model, isOneOfSeveral) {
  const options = { model, key: find("key").value, signal: running.signal };
  const title = isOneOfSeveral ? model.id : "Text";
  if (task() === "ask") return panel.ask(file, title, { ...options, instruction: find("instruction").value.trim() });
  const target = task() === "translate" ? find("target").value.trim() : "";
  const stem = file.name.replace(/\.[^.]*$/, "");
  return panel.write(file, title, isOneOfSeveral ? `${stem}.${model.id}` : stem,
    { ...options, target, language: find("language").value.trim() });
}

function watchDrops() {
  const zone = find("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    // On the whole page: a file dropped beside the zone would replace the page.
    document.addEventListener(name, event => {
      event.preventDefault();
      zone.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length && !running) take(event.dataTransfer.files[0]);
    });
  }
}

find("form").addEventListener("submit", run);
find("form").addEventListener("change", refresh);
find("key").addEventListener("change", connect);
find("file").addEventListener("change", event => event.target.files.length && take(event.target.files[0]));
find("record").addEventListener("click", toggleRecording);
find("cancel").addEventListener("click", () => running?.abort());
for (const panel of panels) {
  find("result").append(panel.root);
  player.follow(panel.text);
}
if (!navigator.mediaDevices?.getUserMedia) {
  find("record").hidden = true;
  find("record-note").textContent = "Browsers let pages record over https, or from this machine, alone.";
}
watchDrops();
connect();
