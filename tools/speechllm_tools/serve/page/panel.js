// What one system makes of the sound.

import { answer, transcript } from "./api.js";
import { srt } from "./subtitles.js";
import { Text } from "./text.js";

export class Panel {
  #segments = [];
  #savedAs = "";

  constructor(tell) {
    this.root = document.getElementById("panel").content.firstElementChild.cloneNode(true);
    this.text = new Text(this.#find("text"));
    this.#find("copy").addEventListener("click", () => this.#copy(tell));
    this.#find("srt").addEventListener("click", () => this.#save());
  }

  #find(name) {
    return this.root.querySelector(`.${name}`);
  }

  // `name` is that of the subtitles' file, without its ending.
  async write(file, title, name, options) {
    const found = await transcript(file, options);
    this.#segments = found.segments;
    this.#savedAs = `${name}.srt`;
    if (found.words?.length) this.text.showWords(found.words);
    else this.text.show(found.text || "(no words)");
    this.#refresh(title, found.words?.length, this.#segments.length);
  }

  async ask(file, title, options) {
    const found = await answer(file, options);
    this.text.show(found.text + (found.cut ? " …" : "") || "(no answer)");
    this.#refresh(title, false, false);
  }

  #refresh(title, hasTimes, hasSegments) {
    this.#find("title").textContent = title;
    this.#find("hint").hidden = !hasTimes;
    this.#find("srt").hidden = !hasSegments;
    this.root.hidden = false;
  }

  #save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([srt(this.#segments)], { type: "application/x-subrip" }));
    link.download = this.#savedAs;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  async #copy(tell) {
    await navigator.clipboard.writeText(this.#find("text").textContent).then(() => tell("Copied"), tell);
  }
}
