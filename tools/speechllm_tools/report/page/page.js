"use strict";
(() => {
  // --- tables: the button of a column sorts by it, then the other way round
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => {
        const cell = row.cells[place];
        return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
      };
      const rows = [...table.tBodies[0].rows];
      const numbers = rows.some(row => key(row) !== null);
      rows.sort((one, other) => {
        if (!numbers) return one.cells[place].textContent.localeCompare(other.cells[place].textContent) * (up ? 1 : -1);
        const [a, b] = [key(one), key(other)];
        // What has no value stays last.
        if (a === null || b === null) return (a === null) - (b === null);
        return (a - b) * (up ? 1 : -1);
      });
      table.tBodies[0].append(...rows);
    }));
  }

  document.getElementById("sure")?.addEventListener("change", event =>
    document.body.classList.toggle("sure", event.target.checked));

  // --- a folded table opens where a link leads to it
  const unfold = () => {
    const folded = document.getElementById(location.hash.slice(1))?.querySelector("details");
    if (folded) folded.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();

  // --- utterances
  const { systems, utterances } = JSON.parse(document.getElementById("data").textContent);
  if (!utterances.length) return;
  const find = id => document.getElementById(id);
  const STEP = 50;
  let limit = STEP;

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const line = (who, output) => {
    const paragraph = element("p");
    paragraph.append(element("span", "who", `${who} ${(100 * output.rate).toFixed(0)} %`));
    for (const [kind, said, heard] of output.aligned) {
      if (kind === "e") paragraph.append(heard, " ");
      if (kind === "d") paragraph.append(element("span", "d", said), " ");
      if (kind === "i") paragraph.append(element("span", "i", heard), " ");
      if (kind === "s") paragraph.append(element("span", "s", heard), element("span", "said", ` (${said})`), " ");
    }
    if (!output.aligned.length) paragraph.append(element("span", "said", "nothing"));
    return paragraph;
  };

  const show = () => {
    const [one, other] = [Number(find("one").value), find("other").value];
    const [kind, order, text] = [find("kind").value, find("order").value, find("text").value.toLowerCase()];
    const second = other === "" ? null : Number(other);
    const found = utterances.filter(item => {
      const outputs = [item.outputs[one], ...(second === null ? [] : [item.outputs[second]])];
      return (!kind || outputs.some(output => output.kinds.includes(kind)))
        && (!text || [item.id, item.reference, item.transcript, ...outputs.map(output => output.text)]
          .some(value => value.toLowerCase().includes(text)));
    });
    const difference = item => second === null ? 0 : Math.abs(item.outputs[one].rate - item.outputs[second].rate);
    found.sort((a, b) => order === "id" ? a.id.localeCompare(b.id, undefined, { numeric: true })
      : order === "difference" ? difference(b) - difference(a) : b.outputs[one].rate - a.outputs[one].rate);
    find("count").textContent = `${found.length} utterances`;
    find("list").replaceChildren(...found.slice(0, limit).map(item => {
      const article = element("article");
      article.tabIndex = 0;
      article.append(element("h3", "", `${item.set} · ${item.id} · ${item.seconds.toFixed(1)} s`));
      const reference = element("p", "", item.reference);
      reference.prepend(element("span", "who", "reference"));
      article.append(reference);
      if (item.transcript) {
        const said = element("p", "", item.transcript);
        said.prepend(element("span", "who", "spoken"));
        article.append(said);
      }
      article.append(line(systems[one], item.outputs[one]));
      if (second !== null) article.append(line(systems[second], item.outputs[second]));
      if (item.audio) {
        const audio = element("audio");
        audio.controls = true;
        audio.preload = "none";
        audio.src = item.audio;
        article.append(audio);
      }
      return article;
    }));
    find("more").hidden = found.length <= limit;
  };

  for (const id of ["one", "other", "kind", "order"]) find(id).addEventListener("change", () => { limit = STEP; show(); });
  find("text").addEventListener("input", () => { limit = STEP; show(); });
  find("filters").addEventListener("submit", event => event.preventDefault());
  find("more").addEventListener("click", () => { limit += STEP; show(); });
  show();
})();
