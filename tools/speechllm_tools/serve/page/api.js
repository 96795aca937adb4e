// Requests to the server that the page came from, in the shapes of OpenAI's API.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, key, options = {}) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Refused(response.status, body?.error?.message ?? `The server answered ${response.status}.`);
  return body;
}

export const models = key => request("v1/models", key);

// A text with the times of its segments and, where the system tells them, of its words.
export function transcript(file, { model, key, language, target, signal }) {
  const form = new FormData();
  form.set("model", model.id);
  form.set("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "segment");
  if (model.word_times) form.append("timestamp_granularities[]", "word");
  if (language) form.set("language", language);
  if (target) form.set("target_language", target);
  form.set("file", file);
  return request("v1/audio/transcriptions", key, { method: "POST", body: form, signal });
}

export async function answer(file, { model, key, instruction, signal }) {
  const sound = { type: "input_audio", input_audio: { data: await base64(file), format: "wav" } };
  const content = instruction ? [{ type: "text", text: instruction }, sound] : [sound];
  const body = JSON.stringify({ model: model.id, messages: [{ role: "user", content }] });
  const headers = { "Content-Type": "application/json" };
  const found = await request("v1/chat/completions", key, { method: "POST", body, headers, signal });
  return { text: found.choices[0].message.content, cut: found.choices[0].finish_reason === "length" };
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}
