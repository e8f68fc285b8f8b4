// The three-plane viewer of report.html. Library and volumes are unpacked at the first click, so that the page opens
// at once; one WebGL context serves all cases. Globals: niivue, once its library has run.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const dialog = find("viewer"), modality = find("modality"), opacity = find("opacity"), place = find("place");
  const style = find("style"), level = find("level"), width = find("window"), canvas = find("canvas");
  const buttons = new Map([...document.querySelectorAll("button[data-open]")].map((b) => [b.dataset.open, b]));
  const cases = [...buttons.keys()];
  let viewer = null, shown = null, queue = Promise.resolve();

  // Many cases lie beside the page: a script calls this with what it holds. Pages from a disk may load nothing else.
  const arrived = new Map();
  window.differsegView = (id, part) => arrived.set(id, part);

  const load = async (id) => {
    const source = buttons.get(id).dataset.source;
    if (!source) return JSON.parse(document.querySelector(`script[data-case="${CSS.escape(id)}"]`).textContent);
    const script = document.createElement("script");
    script.src = source;
    await new Promise((done, failed) => {
      script.onload = done;
      script.onerror = () => failed(new Error("its file is not beside the page"));
      document.head.append(script);
    });
    script.remove();
    const part = arrived.get(id);
    arrived.delete(id);
    return part;
  };

  // One after the other: a second case must not be unpacked into the first one's canvas.
  const inTurn = (job) => (queue = queue.then(job));

  const unpack = (base64) => {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
  };

  const start = async () => {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2");
    const script = document.createElement("script");
    // NiiVue draws outlines of overlays in black, which cannot be seen on air: ours have the colour of the mask.
    const source = await unpack(find("niivue").textContent).text();
    script.textContent = source.replaceAll("ocolor = vec4(0.0, 0.0, 0.0, 1.0)", "ocolor = vec4(1.0, 0.624, 0.11, 1.0)");
    document.head.append(script);
    const made = new niivue.Niivue({
      logLevel: "error",
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
      multiplanarLayout: niivue.MULTIPLANAR_TYPE.ROW,
      crosshairColor: [0.18, 0.77, 1, 0.7],
      crosshairWidth: 0.3,
      fontColor: [1, 1, 1, 1],
      dragAndDropEnabled: false,
    });
    await made.attachToCanvas(find("canvas"));
    made.addColormap("mask", { R: [0, 255], G: [0, 159], B: [0, 28], A: [0, 255], I: [0, 255] });
    made.onLocationChange = ({ mm }) => {
      place.textContent = ["R", "A", "S"].map((axis, i) => `${axis} ${mm[i].toFixed(1)}`).join("  ") + "  mm";
    };
    return made;
  };

  const volume = (base64, options) =>
    niivue.NVImage.loadFromBase64({ base64, name: "volume.nii.gz", cal_min: 0, ...options });

  // Everything the canvas shows: one modality below, the mask on top.
  const draw = async () => {
    const where = viewer.volumes.length ? viewer.scene.crosshairPos.slice() : null;
    while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
    viewer.addVolume(await volume(shown.volumes[modality.value], { colormap: "gray", cal_max: shown.levels }));
    viewer.addVolume(await volume(shown.mask, { colormap: "mask", cal_max: 1 }));
    paint();
    grey();
    return where;
  };

  // The mask: an outline leaves the tumour to be seen.
  const paint = () => {
    const outline = style.value === "outline", seen = Number(opacity.value);
    viewer.overlayOutlineWidth = outline && seen ? 0.5 : 0;
    viewer.overlayAlphaShader = outline ? 0 : 1; // of what the outline encloses
    viewer.setOpacity(1, outline ? 1 : seen);
  };

  // Level and window, in shares of the grey values that the image has.
  const grey = () => {
    const image = viewer.volumes[0], half = Number(width.value) / 2;
    image.cal_min = shown.levels * (Number(level.value) - half);
    image.cal_max = shown.levels * (Number(level.value) + half);
    viewer.updateGLVolume();
  };

  const look = (fraction) => {
    viewer.scene.crosshairPos = fraction;
    viewer.drawScene();
    viewer.createOnLocationChange();
  };

  const open = (id) => {
    dialog.dataset.shown = "";
    find("case").textContent = id;
    place.textContent = "unpacking";
    if (!dialog.open) dialog.showModal();
    return inTurn(() => show(id));
  };

  const show = async (id) => {
    try {
      viewer ??= await start();
      shown = await load(id);
      modality.replaceChildren(...Object.keys(shown.volumes).map((name) => new Option(name)));
      find("caption").textContent = shown.caption;
      await draw();
      look(viewer.mm2frac(shown.center_mm));
      dialog.dataset.shown = id;
      canvas.focus();
    } catch (error) {
      place.textContent = `The viewer cannot be shown: ${error.message}. The files are not concerned.`;
    }
  };

  const step = (by) => open(cases[(cases.indexOf(find("case").textContent) + by + cases.length) % cases.length]);
  buttons.forEach((button, id) => {
    button.onclick = () => open(id);
  });
  modality.onchange = () => inTurn(async () => look(await draw()));
  opacity.oninput = style.onchange = () => inTurn(paint);
  level.oninput = width.oninput = () => inTurn(grey);

  const moves = {
    ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1], ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0],
    PageUp: [0, 1, 0], PageDown: [0, -1, 0],
  };
  const turn = (select) => {
    select.selectedIndex = (select.selectedIndex + 1) % select.length;
    select.onchange();
  };
  const acts = { n: () => step(1), p: () => step(-1), m: () => turn(modality), o: () => turn(style) };
  // Before the library, whose own keys are not those of a radiologist; fields keep theirs.
  dialog.addEventListener("keydown", (event) => {
    if (["SELECT", "INPUT"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = moves[event.key], act = acts[event.key];
    if (move) inTurn(() => viewer.moveCrosshairInVox(...move));
    else if (act) act();
    else if (event.target !== canvas || event.key === "Escape" || event.key === "Tab") return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
  find("previous").onclick = () => step(-1);
  find("next").onclick = () => step(1);
  find("close").onclick = () => dialog.close();
})();
