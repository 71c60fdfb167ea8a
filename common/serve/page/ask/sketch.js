// Drawing, and turning a drawing into an image like those that the model was trained on.

const PEN = 0.07; // width of a stroke, in sides of the paper
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STRIDE = 0.05; // of the pen by a key, in sides of the paper
const FINER = 4; // pixels for each of the grid's, along a side

/** The strokes of a drawing, each a list of points in 0..1. */
export function trace(context, strokes, width, place = (point) => point) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = width;
  for (const stroke of strokes) {
    const points = stroke.map(place);
    context.beginPath();
    context.moveTo(...points[0]);
    if (points.length === 1) context.lineTo(...points[0]);
    for (let i = 1; i < points.length - 1; i++) {
      const [x, y] = points[i];
      context.quadraticCurveTo(x, y, (x + points[i + 1][0]) / 2, (y + points[i + 1][1]) / 2);
    }
    if (points.length > 1) context.lineTo(...points.at(-1));
    context.stroke();
  }
}

function canvas(width, height) {
  const made = document.createElement("canvas");
  made.width = width;
  made.height = height;
  return made;
}

/**
 * A drawing as the data set would have it: in its box, with as much ink as its images have, in few pixels.
 *
 * Whatever the size and the place of the drawing, its box is brought to the box that the data set's shapes have, and
 * the pen is made as thick as gives their share of ink. `spec` is the model's Drawing (common/kinds/image.py).
 *
 * @returns {image: canvas of grid × grid, frame: {x, y, width, height} that it covers of the paper, in 0..1}
 */
export function likeTheData(strokes, spec) {
  const side = spec.grid * FINER;
  const points = strokes.flat();
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const middle = [(left + right) / 2, (top + bottom) / 2];
  const [width, height] = [Math.max(right - left, 0.01), Math.max(bottom - top, 0.01)];
  const fine = canvas(side, side);
  const context = fine.getContext("2d", { willReadFrequently: true });
  context.strokeStyle = "#fff";

  function draw(pen, shift) {
    const room = spec.fill * side - pen;
    let [across, down] = [room / width, room / height];
    if (spec.widest) {
      across = Math.min((spec.widest * side - pen) / width, 1.5 * down);
      down = Math.min(down, 2.5 * across);
    } else across = down = Math.min(across, down);
    const centre = [side / 2 + shift[0], side / 2 + shift[1]];
    context.fillStyle = "#000";
    context.fillRect(0, 0, side, side);
    trace(context, strokes, pen, ([x, y]) => [centre[0] + (x - middle[0]) * across, centre[1] + (y - middle[1]) * down]);
    const size = [side / across, side / down];
    const frame = { x: middle[0] - (centre[0] / side) * size[0], y: middle[1] - (centre[1] / side) * size[1], width: size[0], height: size[1] };
    return { frame, grey: shrink(context.getImageData(0, 0, side, side).data, spec.grid) };
  }

  let [thin, thick] = [0.03 * side, 0.3 * side];
  let made;
  for (let i = 0; i < 7; i++) {
    const pen = (thin + thick) / 2;
    made = draw(pen, [0, 0]);
    if (mean(made.grey) < spec.ink) thin = pen;
    else thick = pen;
  }
  if (!spec.stretch) {
    const off = massCentre(made.grey, spec.grid).map((place) => side / 2 - place * FINER);
    made = draw((thin + thick) / 2, off);
  }
  return { image: paint(made.grey, spec.grid), frame: made.frame };
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length / 255;

/** Grey values of grid × grid blocks, from RGBA of FINER times as many pixels along each side. */
function shrink(pixels, grid) {
  const side = grid * FINER;
  const grey = new Float64Array(grid * grid);
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++)
      grey[Math.floor(y / FINER) * grid + Math.floor(x / FINER)] += pixels[4 * (y * side + x)] / (FINER * FINER);
  return grey;
}

function massCentre(grey, grid) {
  let [sum, x, y] = [1e-9, 0, 0];
  grey.forEach((value, i) => {
    sum += value;
    x += value * ((i % grid) + 0.5);
    y += value * (Math.floor(i / grid) + 0.5);
  });
  return [x / sum, y / sum];
}

function paint(grey, grid) {
  const made = canvas(grid, grid);
  const context = made.getContext("2d");
  const image = context.createImageData(grid, grid);
  grey.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
  context.putImageData(image, 0, 0);
  return made;
}

/** A paper to draw on, or to lay a picture on. */
export class Paper {
  strokes = [];
  picture = null; // an ImageBitmap

  constructor(element, pen, { dark, changed, whole = false }) {
    this.canvas = element;
    this.whole = whole; // whether a picture is fitted whole, or its middle is cut out
    this.pen = pen; // where the keyboard draws
    this.place = [0.5, 0.5];
    this.#put(false);
    this.context = element.getContext("2d");
    this.ground = dark ? "#000" : "#fff";
    this.ink = dark ? "#fff" : "#14181f";
    this.changed = changed;
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, (event) => this.#up(event));
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("blur", () => this.#put(false));
    this.observer = new ResizeObserver(() => this.#fit());
    this.observer.observe(element);
  }

  get empty() {
    return this.picture === null && this.strokes.length === 0;
  }

  clear() {
    this.strokes = [];
    this.picture = null;
    this.redraw();
  }

  undo() {
    if (this.picture) this.picture = null;
    else this.strokes.pop();
    this.redraw();
    this.changed();
  }

  lay(picture) {
    this.clear();
    this.picture = picture;
    this.redraw();
  }

  redraw() {
    const { context, canvas: { width } } = this;
    context.fillStyle = this.ground;
    context.fillRect(0, 0, width, width);
    if (this.picture) {
      const { width: w, height: h } = this.picture;
      const side = this.whole ? Math.max(w, h) : Math.min(w, h);
      context.imageSmoothingEnabled = side >= 64;
      context.imageSmoothingQuality = "high";
      context.drawImage(this.picture, (w - side) / 2, (h - side) / 2, side, side, 0, 0, width, width);
    }
    context.strokeStyle = this.ink;
    trace(context, this.strokes, PEN * width, ([x, y]) => [x * width, y * width]);
  }

  /** The drawing as it is, without the picture's frame. */
  plain(side) {
    const made = canvas(side, side);
    const context = made.getContext("2d");
    context.fillStyle = this.ground;
    context.fillRect(0, 0, side, side);
    context.strokeStyle = this.ink;
    trace(context, this.strokes, PEN * side, ([x, y]) => [x * side, y * side]);
    return made;
  }

  #fit() {
    const side = Math.round(this.canvas.clientWidth * Math.min(devicePixelRatio, 3));
    if (!side || this.canvas.width === side) return;
    this.canvas.width = this.canvas.height = side;
    this.redraw();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = MOVES[event.key];
    if (move) {
      this.place = this.place.map((value, i) => Math.max(0, Math.min(1, value + STRIDE * move[i])));
      this.#put(this.down);
      if (this.down) this.strokes.at(-1).push(this.place);
    } else if (event.key === " ") {
      this.#put(!this.down);
      if (this.down && this.picture) this.clear();
      if (this.down) this.strokes.push([this.place]);
    } else if (event.key === "Backspace") {
      this.#put(false);
      this.undo();
    } else return;
    event.preventDefault();
    if (!this.down) return;
    this.redraw();
    this.changed();
  }

  #put(down) {
    this.down = down;
    this.pen.classList.toggle("down", down);
    [this.pen.style.left, this.pen.style.top] = this.place.map((value) => `${100 * value}%`);
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    if (this.picture) this.clear();
    this.strokes.push([this.#point(event)]);
    this.drawing = event.pointerId;
    this.redraw();
    this.changed();
  }

  #move(event) {
    if (this.drawing !== event.pointerId) return;
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const move of moves.length ? moves : [event]) this.strokes.at(-1).push(this.#point(move));
    this.redraw();
    this.changed();
  }

  #up(event) {
    if (this.drawing !== event.pointerId) return;
    this.drawing = null;
  }
}
