// The three-plane viewer of report.html. Library and volumes are unpacked at the first click, so that the page opens
// at once; one WebGL context serves all cases. Globals: niivue, once its library has run.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const dialog = find("viewer"), modality = find("modality"), opacity = find("opacity"), place = find("place");
  const cases = [...document.querySelectorAll("script[data-case]")].map((script) => script.dataset.case);
  let viewer = null, shown = null, queue = Promise.resolve();

  // One after the other: a second case must not be unpacked into the first one's canvas.
  const inTurn = (job) => (queue = queue.then(job));

  const unpack = (base64) => {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
  };

  const start = async () => {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2");
    const script = document.createElement("script");
    script.textContent = await unpack(find("niivue").textContent).text();
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
    viewer.addVolume(await volume(shown.mask, { colormap: "mask", cal_max: 1, opacity: Number(opacity.value) }));
    return where;
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
      shown = JSON.parse(document.querySelector(`script[data-case="${CSS.escape(id)}"]`).textContent);
      modality.replaceChildren(...Object.keys(shown.volumes).map((name) => new Option(name)));
      find("caption").textContent = shown.caption;
      await draw();
      look(viewer.mm2frac(shown.center_mm));
      dialog.dataset.shown = id;
    } catch (error) {
      place.textContent = `The viewer cannot be shown: ${error.message}. The files are not concerned.`;
    }
  };

  const step = (by) => open(cases[(cases.indexOf(find("case").textContent) + by + cases.length) % cases.length]);
  document.querySelectorAll("button[data-open]").forEach((button) => {
    button.onclick = () => open(button.dataset.open);
  });
  modality.onchange = () => inTurn(async () => look(await draw()));
  opacity.oninput = () => inTurn(() => viewer.setOpacity(1, Number(opacity.value)));
  find("previous").onclick = () => step(-1);
  find("next").onclick = () => step(1);
  find("close").onclick = () => dialog.close();
})();
