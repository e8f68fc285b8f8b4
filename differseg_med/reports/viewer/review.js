// The page of `differseg-med view`: three planes of a case on canvases, and its verdict. All volumes of a case lie on the
// mask's grid, axes nearest to right, anterior, superior, x running fastest; nothing is resampled here.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const modality = find("modality"), style = find("style"), level = find("level"), width = find("window");
  const withLabel = find("with-label"), withProbability = find("with-probability");
  const stage = find("stage"), place = find("place"), form = find("review"), note = find("note"), saved = find("saved");
  const MASK = getComputedStyle(document.documentElement).getPropertyValue("--mask").trim();
  const LABEL = getComputedStyle(document.documentElement).getPropertyValue("--reference").trim();
  const RAMP = [[68, 1, 84], [33, 145, 140], [253, 231, 37]]; // of the probability

  // Axes of the patient in each plane: across and up the screen, through it. Both run against the screen's own.
  const planes = [...stage.querySelectorAll("canvas")].map((canvas, i) => ({
    canvas, axes: [[0, 1, 2], [0, 2, 1], [1, 2, 0]][i], pixels: document.createElement("canvas"),
  }));
  let shown = null, at = [0, 0, 0], wanted = 0, dirty = false;

  const rows = () => [...document.querySelectorAll("tbody tr")];
  const address = (row) => row.cells[0].querySelector("a").getAttribute("href");
  const nameOf = (row) => decodeURIComponent(address(row).slice(1));
  const rowOf = (name) => rows().find((row) => nameOf(row) === name);

  const ask = async (path, body) => {
    const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const answer = await fetch(path, options).catch(() => { throw new Error("The server of this page does not answer: is `differseg-med view` still running?"); });
    const content = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
    if (!answer.ok) throw Object.assign(new Error(content.error), { review: content.review });
    return content;
  };

  const unpack = async (base64) => {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  const load = async (name) => {
    const found = await ask(`case?id=${encodeURIComponent(name)}`);
    if (!found.mask) return found;
    for (const key of ["mask", "label", "probability"]) if (found[key]) found[key] = await unpack(found[key]);
    const volumes = Object.entries(found.volumes).map(async ([key, packed]) => [key, await unpack(packed)]);
    found.volumes = Object.fromEntries(await Promise.all(volumes));
    return found;
  };

  // Where a pixel of a plane is in the volumes: column c and row r of the screen, both counted against the patient's axes.
  const strides = () => [1, shown.shape[0], shown.shape[0] * shown.shape[1]];
  const slice = (plane, volume, give) => {
    const [a, u, t] = plane.axes, s = strides(), n = shown.shape[a], m = shown.shape[u];
    for (let r = 0, i = 0; r < m; r++) for (let c = 0; c < n; c++, i++) give(i, volume[(n - 1 - c) * s[a] + (m - 1 - r) * s[u] + at[t] * s[t]]);
  };
  const cut = (plane, volume) => {
    const out = new Uint8Array(shown.shape[plane.axes[0]] * shown.shape[plane.axes[1]]);
    slice(plane, volume, (i, value) => { out[i] = value; });
    return out;
  };

  // How many pixels of the screen a pixel of the plane takes, and where the plane begins on its canvas.
  const layout = ({ canvas, axes: [a, u] }) => {
    const [n, m] = [shown.shape[a], shown.shape[u]], [p, q] = [shown.spacing_mm[a], shown.spacing_mm[u]];
    const mm = Math.min(canvas.width / (n * p), canvas.height / (m * q));
    return { n, m, x: p * mm, y: q * mm, left: (canvas.width - n * p * mm) / 2, top: (canvas.height - m * q * mm) / 2 };
  };

  const paint = (plane) => {
    const { n, m, x, y, left, top } = layout(plane), context = plane.canvas.getContext("2d"), image = new ImageData(n, m);
    const low = shown.levels * (Number(level.value) - Number(width.value) / 2), span = shown.levels * Number(width.value);
    const volume = shown.volumes[modality.value];
    if (volume) slice(plane, volume, (i, value) => image.data.fill(value ? 255 * (value - low) / span : 0, 4 * i, 4 * i + 3));
    if (withProbability.checked && shown.probability) slice(plane, shown.probability, (i, value) => {
      const share = value / 255, part = Math.min(Math.floor(2 * share), 1), alpha = share < 0.02 ? 0 : 0.65;
      for (let k = 0; k < 3; k++) {
        const color = RAMP[part][k] + (RAMP[part + 1][k] - RAMP[part][k]) * (2 * share - part);
        image.data[4 * i + k] = alpha * color + (1 - alpha) * image.data[4 * i + k];
      }
    });
    for (let i = 3; i < image.data.length; i += 4) image.data[i] = 255;
    Object.assign(plane.pixels, { width: n, height: m });
    plane.pixels.getContext("2d").putImageData(image, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, plane.canvas.width, plane.canvas.height);
    context.drawImage(plane.pixels, left, top, n * x, m * y);
    context.lineWidth = 1.6 * devicePixelRatio;
    if (withLabel.checked && shown.label) outline(context, cut(plane, shown.label), n, m, x, y, left, top, LABEL);
    if (style.value !== "none") {
      const mask = cut(plane, shown.mask);
      if (style.value === "filled") area(context, mask, n, x, y, left, top);
      else outline(context, mask, n, m, x, y, left, top, MASK);
    }
    crosshair(context, plane, { n, m, x, y, left, top });
  };

  // Along the edges of voxels, so that what is drawn is the mask and not a curve near it.
  const outline = (context, mask, n, m, x, y, left, top, color) => {
    const is = (c, r) => c >= 0 && r >= 0 && c < n && r < m && mask[r * n + c] > 0;
    context.strokeStyle = color;
    context.beginPath();
    for (let r = 0; r <= m; r++) for (let c = 0; c <= n; c++) {
      if (c < n && is(c, r) !== is(c, r - 1)) { context.moveTo(left + c * x, top + r * y); context.lineTo(left + (c + 1) * x, top + r * y); }
      if (r < m && is(c, r) !== is(c - 1, r)) { context.moveTo(left + c * x, top + r * y); context.lineTo(left + c * x, top + (r + 1) * y); }
    }
    context.stroke();
  };
  const area = (context, mask, n, x, y, left, top) => {
    context.fillStyle = MASK;
    context.globalAlpha = 0.5;
    mask.forEach((value, i) => { if (value) context.fillRect(left + (i % n) * x, top + Math.floor(i / n) * y, x, y); });
    context.globalAlpha = 1;
  };
  const crosshair = (context, { canvas, axes: [a, u] }, { n, m, x, y, left, top }) => {
    const h = left + (n - 0.5 - at[a]) * x, v = top + (m - 0.5 - at[u]) * y;
    context.strokeStyle = "#2ee6a8";
    context.globalAlpha = 0.7;
    context.lineWidth = devicePixelRatio;
    context.beginPath();
    context.moveTo(h, 0); context.lineTo(h, canvas.height); context.moveTo(0, v); context.lineTo(canvas.width, v);
    context.stroke();
    context.globalAlpha = 1;
  };

  const draw = () => {
    if (!shown?.mask) return;
    for (const plane of planes) {
      const box = plane.canvas.getBoundingClientRect();
      plane.canvas.width = Math.max(1, Math.round(box.width * devicePixelRatio));
      plane.canvas.height = Math.max(1, Math.round(box.height * devicePixelRatio));
      paint(plane);
    }
    const mm = shown.affine.slice(0, 3).map((row) => row[3] + at[0] * row[0] + at[1] * row[1] + at[2] * row[2]);
    place.textContent = ["R", "A", "S"].map((axis, i) => `${axis} ${mm[i].toFixed(1)}`).join("  ") + "  mm";
  };
  const move = (to) => {
    at = to.map((value, axis) => Math.min(Math.max(Math.round(value), 0), shown.shape[axis] - 1));
    draw();
  };

  const review = (kept) => {
    form.verdict.value = kept.verdict;
    note.value = kept.note;
    form.dataset.seen = kept.time;
    dirty = false;
  };
  const inTable = (name, kept) => {
    const row = rowOf(name);
    if (!row) return;
    row.cells[1].textContent = kept.verdict;
    row.cells[2].textContent = kept.note;
  };

  // Keep what the form says of the case that is shown; false if it could not be kept.
  const save = async () => {
    const name = shown?.case;
    if (!name) return false;
    try {
      const kept = await ask("review", { case: name, verdict: form.verdict.value, note: note.value, seen: form.dataset.seen });
      review(kept);
      inTable(name, kept);
      saved.textContent = `Saved: ${kept.verdict || "undecided"}.`;
      return true;
    } catch (error) {
      saved.textContent = error.message;
      if (error.review) {
        form.dataset.seen = error.review.time;
        inTable(name, error.review);
      }
      return false;
    }
  };

  const say = (found) => {
    const problem = find("problem");
    problem.hidden = !found.problem;
    problem.textContent = found.problem ?? "";
    find("notes").replaceChildren(...[...found.notes, ...(found.outdated ? ["The mask has changed since the verdict was saved."] : [])].map((text) => {
      const line = document.createElement("p");
      line.className = "notice";
      line.textContent = text;
      return line;
    }));
    find("facts").replaceChildren(...Object.entries(found.facts).flatMap(([name, value]) => ["dt", "dd"].map((tag, i) => {
      const cell = document.createElement(tag);
      cell.textContent = i ? value : name.replaceAll("_", " ");
      return cell;
    })));
  };

  const open = async (name) => {
    const turn = ++wanted;
    if (dirty && !(await save())) return;
    place.textContent = "loading";
    document.body.dataset.shown = "";
    let found;
    try {
      found = await load(name);
    } catch (error) {
      found = { case: "", facts: {}, notes: [], problem: error.message };
    }
    if (turn !== wanted) return; // another case was asked for meanwhile
    shown = found;
    rows().forEach((row) => row.classList.toggle("shown", nameOf(row) === name));
    find("case").textContent = name;
    saved.textContent = place.textContent = "";
    find("verdicts").disabled = !found.case;
    review(found.review ?? { verdict: "", note: "", time: "" });
    say(found);
    stage.hidden = find("tools").hidden = !found.mask;
    const picture = find("picture");
    picture.hidden = !found.picture;
    if (found.picture) Object.assign(picture, { src: found.picture, alt: `${name}: mask` });
    if (found.mask) {
      const before = modality.value;
      modality.replaceChildren(...Object.keys(found.volumes).map((key) => new Option(key)));
      if (before in found.volumes) modality.value = before;
      withLabel.disabled = !found.label;
      withProbability.disabled = !found.probability;
      move(found.center);
    }
    document.body.dataset.shown = name;
  };

  const go = (name) => {
    if (location.hash === `#${encodeURIComponent(name)}`) open(name);
    else location.hash = encodeURIComponent(name);
  };
  const step = (by) => {
    const names = rows().filter((row) => !row.hidden).map(nameOf);
    if (names.length) go(names[(names.indexOf(find("case").textContent) + by + names.length) % names.length]);
  };
  const decide = async (verdict) => {
    form.verdict.value = verdict;
    await save();
  };

  window.onhashchange = () => { if (location.hash) open(decodeURIComponent(location.hash.slice(1))); };
  window.onbeforeunload = (event) => { if (dirty) event.preventDefault(); };
  form.oninput = () => { dirty = true; saved.textContent = "Not saved yet."; };
  form.onsubmit = (event) => { event.preventDefault(); save(); };
  find("save-next").onclick = async () => { if (await save()) step(1); };
  find("previous").onclick = () => step(-1);
  find("next").onclick = () => step(1);
  modality.onchange = style.onchange = withLabel.onchange = withProbability.onchange = draw;
  level.oninput = width.oninput = draw;
  new ResizeObserver(draw).observe(stage);

  const moves = {
    ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1], ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], PageUp: [0, 1, 0], PageDown: [0, -1, 0],
  };
  const turn = (select) => { select.selectedIndex = (select.selectedIndex + 1) % select.length; draw(); };
  const acts = {
    n: () => step(1), p: () => step(-1), m: () => turn(modality), o: () => turn(style), a: () => decide("accepted"), x: () => decide("rejected"),
  };
  stage.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !shown?.mask) return;
    const by = moves[event.key], act = acts[event.key];
    if (by) move(at.map((value, axis) => value + by[axis]));
    else if (act) act();
    else return;
    event.preventDefault();
  };
  planes.forEach((plane) => {
    const point = (event) => {
      const { n, m, x, y, left, top } = layout(plane), to = [...at], [a, u] = plane.axes;
      to[a] = n - 0.5 - (event.offsetX * devicePixelRatio - left) / x;
      to[u] = m - 0.5 - (event.offsetY * devicePixelRatio - top) / y;
      move(to);
    };
    plane.canvas.onpointerdown = (event) => { plane.canvas.setPointerCapture(event.pointerId); point(event); };
    plane.canvas.onpointermove = (event) => { if (event.buttons & 1) point(event); };
    plane.canvas.addEventListener("wheel", (event) => {
      const to = [...at];
      to[plane.axes[2]] += event.deltaY < 0 ? 1 : -1;
      move(to);
      event.preventDefault();
    }, { passive: false });
  });
  if (location.hash) window.onhashchange();
  else if (rows().length) go(nameOf(rows()[0]));
})();
