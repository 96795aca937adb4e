// Samples of a file, and recordings by the microphone.

const MOST_BYTES = 200e6;  // a larger file is played and sent, but its waveform would fill the memory

// Mono samples, or null where the browser cannot decode the file: the server may still.
export async function samplesOf(file, rate) {
  if (file.size > MOST_BYTES) return null;
  const context = new AudioContext({ sampleRate: rate });
  try {
    const sound = await context.decodeAudioData(await file.arrayBuffer());
    const mono = sound.getChannelData(0);
    for (let channel = 1; channel < sound.numberOfChannels; channel++) {
      const other = sound.getChannelData(channel);
      for (let i = 0; i < mono.length; i++) mono[i] += (other[i] - mono[i]) / (channel + 1);
    }
    return mono;
  } catch {
    return null;
  } finally {
    context.close();
  }
}

// The highest level of each of `count` stretches, from 0 to 1.
export function peaksOf(samples, count) {
  const peaks = new Float32Array(count);
  for (let place = 0; place < count; place++) {
    const end = Math.floor((place + 1) * samples.length / count);
    for (let i = Math.floor(place * samples.length / count); i < end; i++) {
      peaks[place] = Math.max(peaks[place], Math.abs(samples[i]));
    }
  }
  return peaks;
}

// A recording that has begun; `stop` gives it as a wav file, which every server reads.
export async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.addEventListener("dataavailable", event => parts.push(event.data));
  recorder.start();
  const ended = new Promise(resolve => recorder.addEventListener("stop", resolve));
  return {
    stop: async () => {
      recorder.stop();
      await ended;
      stream.getTracks().forEach(track => track.stop());
      const samples = await samplesOf(new Blob(parts, { type: recorder.mimeType }), 16000);
      if (!samples?.length) throw new Error("The recording is empty.");
      return new File([wav(samples, 16000)], "recording.wav", { type: "audio/wav" });
    },
  };
}

function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (place, letters) => [...letters].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);  // integers
  view.setUint16(22, 1, true);  // one channel
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return view.buffer;
}
