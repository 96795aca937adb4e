// A text whose words are heard when they are clicked, and light up as they are played.

import { clock } from "./clock.js";

export class Text {
  onSay = () => {};  // given the time of a word, in seconds

  constructor(element) {
    Object.assign(this, { element, words: [], now: -1 });
    element.addEventListener("click", event => this.#say(event.target.closest("[data-start]")));
    element.addEventListener("keydown", event => this.#walk(event));
  }

  // Words with `start` and `end` in seconds.
  showWords(words) {
    this.words = words;
    this.now = -1;
    this.element.replaceChildren(...words.flatMap((word, place) => {
      const span = document.createElement("span");
      Object.assign(span, { textContent: word.word, tabIndex: place ? -1 : 0, title: clock(word.start) });
      span.setAttribute("role", "button");
      span.dataset.start = word.start;
      return place ? [" ", span] : [span];
    }));
  }

  show(text) {
    this.words = [];
    this.element.textContent = text;
  }

  light(time, isPlaying) {
    const place = this.words.findIndex(word => word.start <= time && time < word.end);
    if (place === this.now) return;
    const spans = this.element.querySelectorAll("[data-start]");
    spans[this.now]?.classList.remove("now");
    this.now = place;
    spans[place]?.classList.add("now");
    if (isPlaying) spans[place]?.scrollIntoView({ block: "nearest" });
  }

  #walk(event) {
    const spans = [...this.element.querySelectorAll("[data-start]")];
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
    if (word) this.onSay(Number(word.dataset.start));
  }
}
