"use strict";

// Embedded data: the rule of the detector, the margins of the images that are shown, the timeline.
const page = JSON.parse(document.getElementById("data").textContent);
const {rule, images, strip, all} = page;
const at = {alpha: 0, zeta: 0};  // positions of the sliders, in steps from the fitted thresholds
const byId = (id) => document.getElementById(id);

// The data are compressed bytes and not pictures: browsers that prevent fingerprinting change the
// pixels that are read from a canvas.
async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// A margin in whole steps, rounded down. It is stored as differences of neighbouring pixels: all low
// bytes, then all high bytes.
async function unpackMargin(text) {
  const bytes = await inflate(text);
  const margin = new Int16Array(bytes.length / 2);
  for (let i = 0, last = 0; i < margin.length; i++) {
    last = margin[i] = last + ((bytes[margin.length + i] << 8) | bytes[i]);
  }
  return margin;
}

async function unpackMask(text, size) {
  const bytes = await inflate(text);
  return Uint8Array.from({length: size}, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1);
}

function load(image) {
  image.loaded ??= Promise.all([
    unpackMargin(image.inpainter),
    unpackMargin(image.detector),
    image.groundTruth ? unpackMask(image.groundTruth, image.height * image.width) : null,
  ]).then(([inpainter, detector, groundTruth]) => ({inpainter, detector, groundTruth}));
  return image.loaded;
}

// Compute the mask by Eq. 4 or a softer rule, with both thresholds moved by some steps. Margins are
// rounded down, so half a step is added; this cannot change a sign.
function findIrregular({inpainter, detector}, {alpha, zeta}) {
  const share = {inpainter: 1, detector: 0}[rule.fusion] ?? rule.balance;
  const mask = new Uint8Array(inpainter.length);
  for (let i = 0; i < mask.length; i++) {
    const changed = inpainter[i] + 0.5 - alpha;
    const doubted = detector[i] + 0.5 + zeta;
    const evidence = rule.fusion === "min"
      ? Math.min(changed, doubted)
      : share * changed + (1 - share) * doubted;
    mask[i] = evidence >= 0;
  }
  return mask;
}

// Remove patches or masks smaller than min_area, and count what remains. Pixels are connected over
// edges and corners.
function openMask(mask, height, width) {
  const least = Math.min(Math.ceil(rule.minArea / rule.reduced ** 2), mask.length);
  const seen = new Uint8Array(mask.length);
  let pixels = 0, patches = 0;
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || seen[start]) continue;
    const patch = [start];
    seen[start] = 1;
    for (const pixel of patch) {
      const row = Math.floor(pixel / width), column = pixel % width;
      for (let y = Math.max(row - 1, 0); y <= Math.min(row + 1, height - 1); y++) {
        for (let x = Math.max(column - 1, 0); x <= Math.min(column + 1, width - 1); x++) {
          const next = y * width + x;
          if (mask[next] && !seen[next]) {
            seen[next] = 1;
            patch.push(next);
          }
        }
      }
    }
    if (rule.minAreaOf === "patch" && patch.length < least) {
      for (const pixel of patch) mask[pixel] = 0;
    } else {
      pixels += patch.length;
      patches += 1;
    }
  }
  if (rule.minAreaOf === "image" && pixels < least) {
    mask.fill(0);
    pixels = patches = 0;
  }
  return {mask, pixels, patches};
}

function segment(image, maps, steps = at) {
  return openMask(findIrregular(maps, steps), image.height, image.width);
}

// Outline a mask and tint its pixels.
function draw(canvas, mask, height, width, {line, edge, tint}) {
  const scale = canvas.width / width, context = canvas.getContext("2d");
  const outline = new Path2D();
  const holds = (y, x) => y >= 0 && x >= 0 && y < height && x < width && mask[y * width + x];
  context.fillStyle = tint;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!holds(y, x)) continue;
      if (!holds(y, x - 1)) {
        let end = x + 1;
        while (holds(y, end)) end += 1;
        context.fillRect(x * scale, y * scale, (end - x) * scale, scale);
      }
      for (const [dy, dx, x0, y0, x1, y1] of [
        [-1, 0, x, y, x + 1, y], [1, 0, x, y + 1, x + 1, y + 1],
        [0, -1, x, y, x, y + 1], [0, 1, x + 1, y, x + 1, y + 1],
      ]) {
        if (holds(y + dy, x + dx)) continue;
        outline.moveTo(x0 * scale, y0 * scale);
        outline.lineTo(x1 * scale, y1 * scale);
      }
    }
  }
  for (const [colour, thickness] of [[edge, 6], [line, 3]]) {
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.stroke(outline);
  }
}

const STYLES = {
  groundTruth: {line: "#00d0ff", edge: "#002733", tint: "rgba(0, 208, 255, 0.12)"},
  found: {line: "#ff3b1f", edge: "#ffffff", tint: "rgba(255, 59, 31, 0.25)"},
};

// What an image is called by its ground truth, without and with an alarm.
const OUTCOMES = {irregular: ["miss", "detection"], normal: ["correctly normal", "false alarm"]};

function describe(pixels, patches, {areaFactor}) {
  if (!pixels) return "normal";
  const area = Math.round(pixels * rule.reduced ** 2 * areaFactor);
  const about = rule.reduced > 1 || areaFactor !== 1 ? "about " : "";
  return `irregular: ${about}${area.toLocaleString("en")} pixel${area === 1 ? "" : "s"} in ` +
    `${patches} patch${patches === 1 ? "" : "es"}`;
}

// Redraw one image in `place`, which holds a canvas and a line for the verdict. Only loading is
// asynchronous: what is drawn afterwards belongs to the current positions of the sliders.
async function show(image, place, isWanted = () => true) {
  const maps = await load(image), {groundTruth} = maps;
  if (!isWanted()) return false;
  const {mask, pixels, patches} = segment(image, maps);
  const canvas = place.querySelector("canvas");
  canvas.width = image.width * Math.max(1, Math.ceil(480 / image.width));
  canvas.height = image.height * (canvas.width / image.width);
  draw(canvas, mask, image.height, image.width, STYLES.found);
  if (groundTruth) draw(canvas, groundTruth, image.height, image.width, STYLES.groundTruth);
  place.querySelector(".static")?.remove();
  const verdict = place.querySelector(".verdict");
  verdict.textContent = describe(pixels, patches, image);
  verdict.className = `verdict ${pixels ? "irregular" : "normal"}`;
  const outcome = place.querySelector(".outcome");
  if (outcome) outcome.textContent = OUTCOMES[place.dataset.label][pixels ? 1 : 0];
  return pixels > 0;
}

// --- thresholds -----------------------------------------------------------------------------------

const sigmoid = (value) => 1 / (1 + Math.exp(-value));

function thresholds({alpha, zeta}) {
  return {
    alpha: alpha ? rule.alpha * Math.exp(alpha * rule.step) : rule.alpha,
    zeta: zeta ? sigmoid(rule.logitZeta + zeta * rule.step) : rule.zeta,
  };
}

// Write three significant digits; of a share close to 1, those of the difference from 1.
function digits(value) {
  const short = (number) => String(Number(number.toPrecision(3)));
  return value > 0.99 && value < 1 ? `1 - ${short(1 - value)}` : short(value);
}

// --- results of all images ------------------------------------------------------------------------

// The evidence of an image at the thresholds of the sliders is that at the fitted ones less a shift,
// unless both tests must hold.
function shift() {
  const share = {inpainter: 1, detector: 0}[rule.fusion] ?? rule.balance;
  return (share * at.alpha - (1 - share) * at.zeta) * rule.step;
}

function measure(flagged, rows) {
  const count = (label, flag) =>
    rows.filter((row) => all.labels[row] === label && flagged[row] === flag).length;
  const [hits, misses, alarms, passed] =
    [count(-1, true), count(-1, false), count(1, true), count(1, false)];
  const share = (part, whole) => whole ? (part / whole).toFixed(3) : "-";
  return {
    hits, misses, alarms, passed, flagged: hits + alarms,
    recall: share(hits, hits + misses), precision: share(hits, hits + alarms),
    f1: share(2 * hits, 2 * hits + misses + alarms),
  };
}

function fill(place, values) {
  for (const cell of place) cell.textContent = values[cell.dataset.measure];
}

function showResults() {
  const isFitted = at.alpha === 0 && at.zeta === 0;
  const isKnown = isFitted || rule.fusion !== "min";
  byId("at").textContent = isFitted ? "At the fitted thresholds." : isKnown
    ? "At the thresholds of the sliders." : "At the fitted thresholds, whatever the sliders: " +
      "where both tests must hold, the page knows the results of the images below alone.";
  const cut = isKnown ? shift() : 0;
  const flagged = all.scores.map((score) => score <= -cut);
  const rows = [...flagged.keys()];
  const shares = {
    all: rows,
    normal: rows.filter((row) => all.labels?.[row] === 1),
    irregular: rows.filter((row) => all.labels?.[row] === -1),
  };
  for (const cell of document.querySelectorAll("[data-share]")) {
    const here = shares[cell.dataset.share], n = here.filter((row) => flagged[row]).length;
    const percent = Number((100 * n / here.length).toPrecision(3));
    cell.textContent = `${n} of ${here.length} (${percent} %)`;
  }
  if (all.labels) {
    fill(document.querySelectorAll("[data-measure]:not([data-kind] *)"), measure(flagged, rows));
  }
  for (const line of document.querySelectorAll("[data-kind]")) {
    const isKind = (row) => all.kinds[row] === Number(line.dataset.kind);
    const compared = rows.filter((row) => all.labels[row] === 1 || isKind(row));
    const values = measure(flagged, compared);
    values.flagged = rows.filter((row) => isKind(row) && flagged[row]).length;
    fill(line.querySelectorAll("[data-measure]"), values);
  }
  if (all.axis) {
    const [left, right, low, high] = all.axis;
    const place = Math.min(Math.max((cut - low) / (high - low), 0), 1);
    byId("cut").style.left = `${100 * (left + (right - left) * place)}%`;
  }
}

let turn = 0;

async function redraw() {
  const mine = ++turn;
  const now = thresholds(at);
  for (const name of ["alpha", "zeta"]) {
    const moved = at[name] ? `fitted: ${digits(rule[name])}` : "as fitted";
    byId(`${name}-value`).textContent = `${digits(now[name])} (${moved})`;
    byId(name).setAttribute("aria-valuetext", `${digits(now[name])}, ${moved}`);
  }
  byId("take").textContent = `detector.with_thresholds(${now.alpha}, ${now.zeta})`;
  byId("command").textContent = `${rule.command} --alpha ${now.alpha} --zeta ${now.zeta}`;
  showResults();
  const cards = [...document.querySelectorAll(".card")];
  const irregular = await Promise.all(cards.map((card) => show(images[card.dataset.image], card)));
  if (mine !== turn) return;  // a slider was moved again in the meantime
  const count = irregular.filter(Boolean).length;
  byId("summary").textContent =
    `${count} of the ${cards.length} ${rule.kind}s below ${count === 1 ? "is" : "are"} irregular`;
  if (strip) await showFrame();
}

for (const name of ["alpha", "zeta"]) {
  byId(name).addEventListener("input", (event) => {
    at[name] = Number(event.target.value);
    schedule();
  });
}

let waiting = false;

function schedule() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    redraw();
  });
}

byId("reset").addEventListener("click", () => {
  for (const name of ["alpha", "zeta"]) byId(name).value = at[name] = 0;
  redraw();
});

// --- the timeline ---------------------------------------------------------------------------------

let frame = 0;

function showFrame() {
  const here = strip.frames[frame];
  const [left, right] = strip.axis;
  byId("cursor").style.left = `${100 * (left + (right - left) * here.place)}%`;
  byId("frame").value = frame;
  byId("frame").setAttribute("aria-valuetext", `${here.name}, ${here.facts}`);
  byId("frame-name").textContent = here.name;
  byId("frame-facts").textContent = here.facts;
  byId("frame-ground-truth").textContent = here.groundTruth;
  const picture = byId("frame-picture");
  picture.src = here.picture;
  picture.alt = here.name;
  picture.style.aspectRatio = images[here.image].ratio;
  return show(images[here.image], byId("seen"), () => here === strip.frames[frame]);
}

function goTo(index) {
  frame = Math.min(Math.max(index, 0), strip.frames.length - 1);
  return showFrame();
}

if (strip) {
  const [left, right] = strip.axis;  // align the slider with the axis above it
  byId("frame").style.marginLeft = `${100 * left}%`;
  byId("frame").style.width = `${100 * (right - left)}%`;
  byId("frame").addEventListener("input", (event) => goTo(Number(event.target.value)));
  byId("timeline").addEventListener("click", (event) => {
    const box = byId("timeline").getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width - left) / (right - left);
    const apart = strip.frames.map((one) => Math.abs(one.place - place));
    goTo(apart.indexOf(Math.min(...apart)));
  });
  byId("previous").addEventListener("click", () => {
    const before = strip.frames.findLastIndex((one, index) => one.alarm && index < frame);
    if (before >= 0) goTo(before);
  });
  byId("next").addEventListener("click", () => {
    const after = strip.frames.findIndex((one, index) => one.alarm && index > frame);
    if (after >= 0) goTo(after);
  });
}

const ready = redraw().catch((error) => {
  byId("summary").textContent = `This browser cannot redraw the masks: ${error.message}`;
});
