// The mask: strokes and rectangles over the picture to start from, kept as a list, so that undo is exact.

const COLOUR = "#e6007a";
const MOVE = 0.05; // of the picture, for each key

const mask = {
  width: 0,
  height: 0,
  shapes: [],
  tool: "brush",
  _drawing: null,
  _pointer: null, // that draws
  _down: new Map(), // all that touch the picture: kind, by id
  _rectangle: null, // being placed by keys or pointer: x, y, width, height as shares of the picture

  begin(width, height) {
    this.drop(); // it was meant for the picture before
    Object.assign(this, { width, height, shapes: [], _drawing: null, _rectangle: null });
    const canvas = $("mask");
    canvas.width = width;
    canvas.height = height;
    canvas.parentElement.style.setProperty("--ratio", String(width / height));
    this.use("brush");
    this.changed();
  },

  use(tool) {
    this.tool = tool;
    for (const id of ["brush", "eraser", "rectangle"]) $(id).setAttribute("aria-pressed", String(id === tool));
    this._rectangle = null;
    if (tool === "rectangle") this._rectangle = { x: 0.25, y: 0.25, width: 0.5, height: 0.5 };
    this.paint();
  },

  add(shape) {
    this.shapes.push(shape);
    this.changed();
  },

  undo() {
    this.shapes.pop();
    this.changed();
  },

  clear() {
    this.shapes = [];
    this.changed();
  },

  get isEmpty() {
    return !this.shapes.some((shape) => shape.kind !== "eraser");
  },

  changed() {
    for (const id of ["undo", "clear"]) $(id).setAttribute("aria-disabled", String(!this.shapes.length));
    const marked = this.isEmpty ? "nothing is marked, so all of the picture may change" : "what is marked is drawn anew";
    $("mask").setAttribute("aria-label", `Mask: ${marked}`);
    this.paint();
  },

  paint() {
    const context = $("mask").getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    for (const shape of this.shapes) this._paintShape(context, shape);
    if (this._drawing) this._paintShape(context, this._drawing);
    if (this._rectangle) {
      const { x, y, width, height } = this._rectangle;
      context.strokeStyle = COLOUR;
      context.lineWidth = Math.max(1, this.width / 150);
      context.setLineDash([this.width / 40, this.width / 60]);
      context.strokeRect(x * this.width, y * this.height, width * this.width, height * this.height);
      context.setLineDash([]);
    }
  },

  _paintShape(context, shape) {
    context.globalCompositeOperation = shape.kind === "eraser" ? "destination-out" : "source-over";
    context.strokeStyle = context.fillStyle = COLOUR;
    if (shape.kind === "rectangle") {
      const { x, y, width, height } = shape;
      context.fillRect(x * this.width, y * this.height, width * this.width, height * this.height);
    } else {
      context.lineWidth = shape.size;
      context.lineCap = context.lineJoin = "round";
      context.beginPath();
      const [[x, y], ...rest] = shape.points;
      context.moveTo(x, y);
      context.lineTo(x + 0.01, y); // a dot, where nothing follows: a line without any length is not drawn
      for (const point of rest) context.lineTo(...point);
      context.stroke();
    }
    context.globalCompositeOperation = "source-over";
  },

  /** The mask as the server takes it: white is drawn anew, black stays. Null where nothing is marked. */
  async toBlob() {
    if (this.isEmpty) return null;
    const layer = make("canvas", { width: this.width, height: this.height });
    const context = layer.getContext("2d");
    for (const shape of this.shapes) this._paintShape(context, shape);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, this.width, this.height);
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.width, this.height);
    return new Promise((resolve) => layer.toBlob(resolve, "image/png"));
  },

  // Pointers: mouse, touch and pen.

  _at(event) {
    const box = $("mask").getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  },

  down(event) {
    if (event.button !== 0 && event.button !== 5) return; // 5: the other end of a pen
    event.preventDefault();
    const drawn = this._down.get(this._pointer);
    this._down.set(event.pointerId, event.pointerType);
    $("mask").setPointerCapture(event.pointerId);
    if (drawn === "pen") return; // the hand that holds it
    this.drop();
    if (this._down.size > 1 && event.pointerType !== "pen") return; // two fingers zoom
    this._pointer = event.pointerId;
    $("mask").focus({ preventScroll: true });
    const [x, y] = this._at(event);
    if (this.tool === "rectangle") {
      this._corner = [x, y];
      this._rectangle = { x, y, width: 0, height: 0 };
    } else {
      const size = (Number($("brush-size").value) / 100) * Math.min(this.width, this.height);
      const points = [[x * this.width, y * this.height]];
      this._drawing = { kind: event.buttons & 32 ? "eraser" : this.tool, size, points };
    }
    this.paint();
  },

  move(event) {
    this._showRing(event);
    if (event.pointerId !== this._pointer) return;
    if (this._drawing) {
      for (const each of event.getCoalescedEvents?.() ?? [event]) {
        const [x, y] = this._at(each);
        this._drawing.points.push([x * this.width, y * this.height]);
      }
    } else if (this._corner) {
      const [x, y] = this._at(event).map((share) => Math.min(1, Math.max(0, share)));
      const [left, top] = this._corner;
      const [width, height] = [Math.abs(x - left), Math.abs(y - top)];
      this._rectangle = { x: Math.min(x, left), y: Math.min(y, top), width, height };
    } else return;
    this.paint();
  },

  /** A finger was lifted, or what it did became a gesture of the browser's. */
  up(event, whole) {
    const known = this._down.delete(event.pointerId);
    if (!known || event.pointerId !== this._pointer) return;
    if (!whole) return this.drop();
    this._pointer = null;
    const stroke = this._drawing;
    this._drawing = null;
    if (stroke) this.add(stroke);
    if (!this._corner) return;
    this._corner = null;
    if (this._rectangle.width && this._rectangle.height) this._set();
    else this.use("rectangle");
  },

  /** Forget what is being painted. */
  drop() {
    if (this._pointer === null) return;
    Object.assign(this, { _pointer: null, _drawing: null });
    if (this._corner) {
      this._corner = null;
      this.use("rectangle");
    }
    this.paint();
  },

  /** How much the brush covers, around the pointer; a finger would hide it. */
  _showRing(event) {
    const ring = $("ring");
    show(ring, this.tool !== "rectangle" && event.pointerType !== "touch");
    if (ring.hidden) return;
    const box = $("mask").getBoundingClientRect();
    ring.style.width = `${($("brush-size").value / 100) * Math.min(box.width, box.height)}px`;
    ring.style.left = `${event.clientX - box.left}px`;
    ring.style.top = `${event.clientY - box.top}px`;
  },

  // Keys: a rectangle that is moved and resized.

  _set() {
    const set = { kind: "rectangle", ...this._rectangle };
    this.use("brush");
    this.add(set);
    announce("The rectangle is marked.");
  },

  key(event) {
    const rectangle = this._rectangle;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!rectangle || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") this._set();
    else if (event.key === "Escape") this.use("brush");
    else if (way && event.shiftKey) {
      rectangle.width = Math.min(1 - rectangle.x, Math.max(MOVE, rectangle.width + way[0] * MOVE));
      rectangle.height = Math.min(1 - rectangle.y, Math.max(MOVE, rectangle.height + way[1] * MOVE));
    } else if (way) {
      rectangle.x = Math.min(1 - rectangle.width, Math.max(0, rectangle.x + way[0] * MOVE));
      rectangle.y = Math.min(1 - rectangle.height, Math.max(0, rectangle.y + way[1] * MOVE));
    } else return;
    event.preventDefault();
    this.paint();
    if (way) {
      const [x, y, width, height] = [rectangle.x, rectangle.y, rectangle.width, rectangle.height].map((share) => Math.round(share * 100));
      announce(`From left ${x} %, from top ${y} %, ${width} % wide, ${height} % high`);
    }
  },
};

$("mask").onpointerdown = (event) => mask.down(event);
$("mask").onpointermove = (event) => mask.move(event);
$("mask").onpointerup = (event) => mask.up(event, true);
$("mask").onpointercancel = $("mask").onlostpointercapture = (event) => mask.up(event, false);
$("mask").onpointerleave = () => show($("ring"), false);
$("mask").onkeydown = (event) => mask.key(event);
$("brush").onclick = () => mask.use("brush");
$("eraser").onclick = () => mask.use("eraser");
$("rectangle").onclick = () => {
  mask.use("rectangle");
  $("mask").focus();
  announce("Arrow keys move the rectangle, with Shift they change its size. Enter sets it, Escape drops it.");
};
$("whole").onclick = () => {
  mask.add({ kind: "rectangle", x: 0, y: 0, width: 1, height: 1 });
  announce("The whole picture is marked.");
};
$("undo").onclick = () => mask.undo();
$("clear").onclick = () => mask.clear();
$("brush-size").oninput = () => { $("brush-size-shown").textContent = `${$("brush-size").value} %`; };
