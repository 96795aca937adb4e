// Segments as SubRip subtitles, as the server writes them.

const LEAST = 0.02;  // seconds that a subtitle is shown at least: players drop those that end when they begin

export function srt(segments) {
  return segments.map(({ start, end, text }, place) =>
    `${place + 1}\n${clock(start)} --> ${clock(Math.max(end, start + LEAST))}\n${text.replaceAll("-->", "->")}\n`,
  ).join("\n");
}

function clock(seconds) {
  const all = Math.round(1000 * seconds);
  const two = number => String(Math.floor(number) % 60).padStart(2, "0");
  const hours = String(Math.floor(all / 3_600_000)).padStart(2, "0");
  return `${hours}:${two(all / 60_000)}:${two(all / 1000)},${String(all % 1000).padStart(3, "0")}`;
}
