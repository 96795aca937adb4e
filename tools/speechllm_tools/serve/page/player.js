// The waveform, which is a slider, and the words that light up as they are played.

import { peaksOf } from "./sound.js";

const STEP = 2;  // seconds that an arrow key moves by

export class Player {
  constructor(audio, canvas, text) {
    Object.assign(this, { audio, canvas, text, samples: null, words: [], now: -1 });
    audio.addEventListener("play", () => this.#follow());
    for (const name of ["seeked", "timeupdate", "loadedmetadata"]) audio.addEventListener(name, () => this.#show());
    canvas.addEventListener("pointerdown", event => this.#drag(event));
    canvas.addEventListener("pointermove", event => event.buttons && this.#drag(event));
    canvas.addEventListener("keydown", event => this.#key(event));
    text.addEventListener("click", event => this.#say(event.target.closest("[data-start]")));
    text.addEventListener("keydown", event => this.#walk(event));
    new ResizeObserver(() => this.#measure()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  load(file) {
    URL.revokeObjectURL(this.audio.src);
    this.audio.src = URL.createObjectURL(file);
    this.showSamples(null);
  }

  showSamples(samples) {
    this.samples = samples;
    this.#measure();
  }

  // Words with `start` and `end` in seconds.
  showWords(words) {
    this.words = words;
    this.now = -1;
    this.text.replaceChildren(...words.flatMap((word, place) => {
      const span = document.createElement("span");
      Object.assign(span, { textContent: word.word, tabIndex: place ? -1 : 0, title: clock(word.start) });
      span.setAttribute("role", "button");
      span.dataset.start = word.start;
      return place ? [" ", span] : [span];
    }));
    this.#show();
  }

  showText(text) {
    this.words = [];
    this.text.textContent = text;
  }

  #follow() {
    this.#show();
    if (!this.audio.paused && !this.audio.ended) requestAnimationFrame(() => this.#follow());
  }

  #show() {
    const { currentTime, duration } = this.audio;
    this.canvas.setAttribute("aria-valuemax", String(Math.round(duration || 0)));
    this.canvas.setAttribute("aria-valuenow", String(Math.round(currentTime)));
    this.canvas.setAttribute("aria-valuetext", `${clock(currentTime)} of ${clock(duration || 0)}`);
    this.#light(currentTime);
    this.#draw();
  }

  #light(time) {
    const place = this.words.findIndex(word => word.start <= time && time < word.end);
    if (place === this.now) return;
    const spans = this.text.querySelectorAll("[data-start]");
    spans[this.now]?.classList.remove("now");
    this.now = place;
    spans[place]?.classList.add("now");
    if (!this.audio.paused) spans[place]?.scrollIntoView({ block: "nearest" });
  }

  #measure() {
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * scale);
    this.canvas.height = Math.round(this.canvas.clientHeight * scale);
    const bars = Math.max(1, Math.floor(this.canvas.clientWidth / 3));
    this.peaks = this.samples && peaksOf(this.samples, bars);
    this.#draw();
  }

  #draw() {
    const { width, height } = this.canvas;
    const style = getComputedStyle(this.canvas);
    const [wave, played] = ["--wave", "--link"].map(name => style.getPropertyValue(name));
    const paint = this.canvas.getContext("2d");
    const at = width * (this.audio.currentTime / this.audio.duration || 0);
    paint.clearRect(0, 0, width, height);
    const peaks = this.peaks ?? new Float32Array(0);
    const bar = width / peaks.length;
    const loudest = Math.max(...peaks) || 1;
    peaks.forEach((peak, place) => {
      const tall = Math.max(2, height * peak / loudest);
      paint.fillStyle = place * bar < at ? played : wave;
      paint.fillRect(place * bar, (height - tall) / 2, Math.max(1, bar * 0.66), tall);
    });
    paint.fillStyle = played;
    paint.fillRect(Math.min(at, width - 2), 0, 2, height);
  }

  #drag(event) {
    const box = this.canvas.getBoundingClientRect();
    this.#seek((event.clientX - box.left) / box.width * this.audio.duration);
  }

  #key(event) {
    const { audio } = this;
    const moves = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -10 * STEP,
      PageUp: 10 * STEP, Home: -Infinity, End: Infinity };
    if (event.key === " ") audio.paused ? audio.play() : audio.pause();
    else if (event.key in moves) this.#seek(audio.currentTime + moves[event.key]);
    else return;
    event.preventDefault();
  }

  #walk(event) {
    const spans = [...this.text.querySelectorAll("[data-start]")];
    const place = spans.indexOf(event.target);
    const next = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: spans.length - 1 }[event.key];
    if (place < 0) return;
    if (event.key === "Enter" || event.key === " ") this.#say(event.target);
    else if (spans[next]) {
      event.target.tabIndex = -1;
      spans[next].tabIndex = 0;
      spans[next].focus();
    } else return;
    event.preventDefault();
  }

  #say(word) {
    if (!word) return;
    this.#seek(Number(word.dataset.start));
    this.audio.play();
  }

  #seek(time) {
    const { duration } = this.audio;
    if (Number.isFinite(duration)) this.audio.currentTime = Math.max(0, Math.min(time, duration));
  }
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
