// The waveform, which is a slider, and texts whose words light up as they are played.

import { clock } from "./clock.js";
import { peaksOf } from "./sound.js";

const STEP = 2;  // seconds that an arrow key moves by

export class Player {
  constructor(audio, canvas) {
    Object.assign(this, { audio, canvas, samples: null, texts: [] });
    audio.addEventListener("play", () => this.#follow());
    for (const name of ["seeked", "timeupdate", "loadedmetadata"]) audio.addEventListener(name, () => this.#show());
    canvas.addEventListener("pointerdown", event => this.#drag(event));
    canvas.addEventListener("pointermove", event => event.buttons && this.#drag(event));
    canvas.addEventListener("keydown", event => this.#key(event));
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

  // A text, see text.js, whose words light up.
  follow(text) {
    this.texts.push(text);
    text.onSay = time => {
      this.#seek(time);
      this.audio.play();
    };
  }

  // The words of now.
  light() {
    for (const text of this.texts) text.light(this.audio.currentTime, !this.audio.paused);
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
    this.light();
    this.#draw();
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

  #seek(time) {
    const { duration } = this.audio;
    if (!Number.isFinite(duration)) return;
    this.audio.currentTime = Math.max(0, Math.min(time, duration));
    this.#show();  // `seeked` comes when the sound is there: the slider moves with the key
  }
}
