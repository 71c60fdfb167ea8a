// Sounds: speak, drop or choose one; see its waveform and spectrogram, the answer, and which part of it speaks for that.

import { ask, newest, route } from "../api.js";
import { make, problem } from "../parts.js";

const LONGEST = 10; // seconds of a recording from the microphone
const REST = 180; // milliseconds after an answer until it is explained
const [WIDTH, WAVE, BANDS] = [520, 96, 128]; // pixels
const RANGE = 7; // powers of ten of energy that the spectrogram shows

export function view(model, show) {
  const { rate, samples } = model.input;
  const wave = make("canvas", { width: WIDTH, height: WAVE, role: "img", "aria-label": "Waveform of what the model hears" });
  const bands = make("canvas", { width: WIDTH, height: BANDS, role: "img", "aria-label": "Its spectrogram, high tones above" });
  const frame = make("div", {}, wave, bands);
  for (const canvas of [wave, bands]) Object.assign(canvas.style, { display: "block", width: "100%", borderRadius: "10px", marginBottom: "0.5rem", background: "var(--raised)" });
  const speak = make("button", { type: "button", className: "main", onclick: () => (recorder ? stopRecording() : record()) }, "Speak");
  const file = make("input", { type: "file", accept: "audio/*,.wav,.flac,.ogg,.mp3", className: "hidden-input", id: "file", onchange: () => take(file.files[0]) });
  const play = make("button", { type: "button", disabled: true, onclick: playBack }, "Play");
  const tools = make("div", { className: "tools" }, speak,
    make("span", { className: "file" }, file, make("label", { className: "button", htmlFor: "file" }, "Choose a file")), play);
  const shown = show(model, { pick: model.explain ? explainClass : null });
  const note = make("p", { className: "quiet note", role: "status" });
  const invite = "Say one word, or drop a recording here.";
  note.textContent = invite;
  const trouble = problem();
  const element = make("div", { className: "bench" },
    make("section", { "aria-label": "Your sound" }, frame, tools, note),
    make("section", { "aria-label": "The answer" }, shown.head, shown.body, trouble.element));

  let context = null; // of WebAudio; a browser wants a click before there is one
  let recorder = null;
  let clip = null; // what is drawn, Float32Array of `samples`
  let question = null; // {body, type} of what was asked last
  let answer = null;
  let wanted = null; // a class to explain in the place of the answer
  let timer = 0;

  shown.clear();

  const audio = () => (context ??= new AudioContext());

  async function record() {
    trouble.clear();
    if (!navigator.mediaDevices) return trouble.show(new Error("A browser lends the microphone only to https pages and to localhost."));
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    } catch {
      return trouble.show(new Error("The microphone is not to be had: there is none, or the browser was not allowed."));
    }
    const parts = [];
    const made = new MediaRecorder(stream);
    made.ondataavailable = (event) => parts.push(event.data);
    made.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      recorder = null;
      speak.textContent = "Speak";
      take(new File(parts, "The recording", { type: made.mimeType }), true);
    };
    recorder = made;
    made.start();
    speak.textContent = "Stop";
    note.textContent = "Listening …";
    setTimeout(() => recorder === made && stopRecording(), 1000 * LONGEST);
  }

  function stopRecording() {
    if (recorder?.state === "recording") recorder.stop();
  }

  /** A file, or what was recorded. */
  async function take(chosen, spoken = false) {
    if (!chosen) return;
    file.value = "";
    trouble.clear();
    wanted = null;
    let sound = null;
    try {
      sound = await atRate(await audio().decodeAudioData(await chosen.arrayBuffer()), rate);
    } catch {
      if (spoken) return trouble.show(new Error("This browser can't read what it has recorded."));
    }
    clip = sound && fitted(sound, samples);
    // A file goes as it is, so that the page answers as the API does; the server can't read what browsers record.
    question = spoken ? { body: asWav(sound, rate), type: "audio/wav" } : { body: chosen, type: "application/octet-stream" };
    play.disabled = clip === null;
    draw(null);
    predict();
  }

  const predict = newest(async () => {
    const asked = question;
    const began = performance.now();
    const row = await ask(route(model, "predict"), asked);
    if (asked !== question) return;
    answer = row;
    shown.show(row, { explained: wanted });
    note.textContent = `Answered in ${Math.round(performance.now() - began)} ms.`;
    clearTimeout(timer);
    if (model.explain) timer = setTimeout(explain, REST);
  }, fail);

  const explain = newest(async () => {
    const asked = question;
    if (!asked) return;
    const path = wanted === null ? "explain" : `explain?class=${encodeURIComponent(wanted)}`;
    const why = await ask(route(model, path), asked);
    if (asked !== question) return;
    draw(why.heat[0]);
    shown.show(answer, { explained: why.class });
    note.textContent = `In colour: the parts without which “${why.class}” is less probable. Choose another class to see what speaks for it.`;
  }, fail);

  function fail(error) {
    shown.clear();
    note.textContent = invite;
    question = null;
    trouble.show(error);
  }

  function explainClass(name) {
    if (!question) return;
    wanted = name;
    explain();
  }

  function playBack() {
    const buffer = audio().createBuffer(1, clip.length, rate);
    buffer.copyToChannel(clip, 0);
    const source = audio().createBufferSource();
    source.buffer = buffer;
    source.connect(audio().destination);
    source.start();
  }

  /** @param heat shares in 0..1 of parts of the clip, or null. */
  function draw(heat) {
    const [waves, grid] = [wave.getContext("2d"), bands.getContext("2d")];
    waves.clearRect(0, 0, WIDTH, WAVE);
    grid.clearRect(0, 0, WIDTH, BANDS);
    if (!clip) return;
    const colours = getComputedStyle(document.documentElement);
    const [plain, accent] = [colours.getPropertyValue("--second"), colours.getPropertyValue("--accent")];
    const most = Math.max(1e-4, ...envelope(clip, WIDTH));
    envelope(clip, WIDTH).forEach((height, x) => {
      const share = heat ? heat[Math.min(heat.length - 1, Math.floor((x * heat.length) / WIDTH))] : 1;
      const size = Math.max(1, (height / most) * (WAVE - 4));
      waves.fillStyle = plain;
      waves.fillRect(x, (WAVE - size) / 2, 1, size);
      waves.globalAlpha = share;
      waves.fillStyle = accent;
      waves.fillRect(x, (WAVE - size) / 2, 1, size);
      waves.globalAlpha = 1;
    });
    drawBands(grid, accent);
  }

  function drawBands(grid, colour) {
    const columns = spectrogram(clip, BANDS, WIDTH / 4);
    const loudest = Math.max(...columns.map((column) => Math.max(...column)));
    grid.fillStyle = colour;
    columns.forEach((column, x) => column.forEach((energy, row) => {
      grid.globalAlpha = Math.max(0, Math.min(1, 1 + (energy - loudest) / RANGE)) ** 2;
      grid.fillRect(4 * x, BANDS - 1 - row, 4, 1);
    }));
    grid.globalAlpha = 1;
  }

  const onDrop = (event) => {
    event.preventDefault();
    if (event.type === "drop") take(event.dataTransfer.files[0]);
  };
  for (const name of ["dragover", "drop"]) document.addEventListener(name, onDrop);
  return {
    element,
    stop() {
      clearTimeout(timer);
      stopRecording();
      context?.close();
      for (const name of ["dragover", "drop"]) document.removeEventListener(name, onDrop);
    },
  };
}

/** One channel at a rate: WebAudio mixes and resamples, in the browser's own filter. */
async function atRate(buffer, rate) {
  const offline = new OfflineAudioContext(1, Math.max(1, Math.ceil(buffer.duration * rate)), rate);
  const source = offline.createBufferSource();
  source.buffer = buffer;
  source.connect(offline.destination);
  source.start();
  return (await offline.startRendering()).getChannelData(0);
}

/** As the model hears it: silence around a short sound, of a longer one the loudest part. */
function fitted(sound, length) {
  const clip = new Float32Array(length);
  if (sound.length <= length) {
    clip.set(sound, (length - sound.length) >> 1);
    return clip;
  }
  let energy = 0;
  let [most, best] = [-1, 0];
  for (let i = 0; i < sound.length; i++) {
    energy += sound[i] ** 2 - (i >= length ? sound[i - length] ** 2 : 0);
    if (i >= length - 1 && energy > most) [most, best] = [energy, i - length + 1];
  }
  clip.set(sound.subarray(best, best + length));
  return clip;
}

/** The file of a sound: PCM, 16 bits. */
function asWav(sound, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * sound.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channel
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * sound.length, true);
  sound.forEach((value, i) => view.setInt16(44 + 2 * i, Math.round(32767 * Math.max(-1, Math.min(1, value))), true));
  return new Blob([view], { type: "audio/wav" });
}

/** The largest size of the samples behind each of some columns. */
function envelope(clip, columns) {
  return Array.from({ length: columns }, (_, x) => {
    const part = clip.subarray(Math.floor((x * clip.length) / columns), Math.floor(((x + 1) * clip.length) / columns));
    return part.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  });
}

/** Logarithms of energy, [columns][rows], low tones first: a Fourier transform of 2 × rows samples about each column. */
function spectrogram(clip, rows, columns) {
  const size = 2 * rows;
  return Array.from({ length: columns }, (_, x) => {
    const start = Math.round((x * (clip.length - size)) / Math.max(1, columns - 1));
    const [real, imaginary] = [new Float64Array(size), new Float64Array(size)];
    for (let i = 0; i < size; i++) real[i] = (clip[start + i] ?? 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
    transform(real, imaginary);
    return Array.from({ length: rows }, (_, k) => Math.log10(1e-10 + real[k] ** 2 + imaginary[k] ** 2));
  });
}

/** The fast Fourier transform in place; the length is a power of two. */
function transform(real, imaginary) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let half = 1; half < size; half *= 2) {
    for (let k = 0; k < half; k++) {
      const [cos, sin] = [Math.cos((-Math.PI * k) / half), Math.sin((-Math.PI * k) / half)];
      for (let a = k; a < size; a += 2 * half) {
        const b = a + half;
        const [re, im] = [cos * real[b] - sin * imaginary[b], sin * real[b] + cos * imaginary[b]];
        [real[b], imaginary[b]] = [real[a] - re, imaginary[a] - im];
        real[a] += re;
        imaginary[a] += im;
      }
    }
  }
}
