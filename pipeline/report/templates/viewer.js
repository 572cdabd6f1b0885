// Shows window.ASSET (a .ply in base64) with window.SPLAT_VIEWER (a module's source): a page opened from disk can neither
// fetch files nor import modules. A page that is one file has both in elements, in gzip and base64.
// Assets have z up and face +x; the viewer's world has y up.
"use strict";

const FOV_DEGREES = 45; // of the longer side of the window
const FROM = [0.434, 0.244, 0.867]; // camera position: in front of the object, to the right and above
const SETTINGS = {
  version: 2,
  tonemapping: "none",
  highPrecisionRendering: false,
  background: { color: [1, 1, 1] },
  postEffectSettings: {
    sharpness: { enabled: false, amount: 0 },
    bloom: { enabled: false, intensity: 0.1, blurLevel: 2 },
    grading: { enabled: false, brightness: 1, contrast: 1, saturation: 1, tint: [1, 1, 1] },
    vignette: { enabled: false, intensity: 0.5, inner: 0.3, outer: 0.75, curvature: 1 },
    fringing: { enabled: false, intensity: 0.5 },
  },
  animTracks: [],
  cameras: [{ initial: { position: FROM, target: [0, 0, 0], fov: FOV_DEGREES } }],
  annotations: [],
  startMode: "default",
};

function showError(error) {
  const place = document.getElementById("trouble");
  place.textContent = `This browser cannot show the asset: ${error.message ?? error}`;
  place.hidden = false;
}

async function unpacked(id) {
  const packed = await fetch(`data:application/gzip;base64,${document.getElementById(id).textContent}`);
  return new Response(packed.body.pipeThrough(new DecompressionStream("gzip")));
}

async function start() {
  const shape = Math.min(innerWidth, innerHeight) / Math.max(innerWidth, innerHeight);
  const distance = 1.1 / Math.sin(Math.atan(Math.tan((FOV_DEGREES * Math.PI) / 360) * shape)); // fits a sphere of radius 1
  SETTINGS.cameras[0].initial.position = FROM.map((x) => x * distance);
  try {
    localStorage.getItem("controlsPanelOpen") ?? localStorage.setItem("controlsPanelOpen", "false");
  } catch {
    // without storage the list of shortcuts starts open
  }
  const contents = window.ASSET
    ? new Response(Uint8Array.from(atob(window.ASSET), (letter) => letter.charCodeAt(0)))
    : unpacked("asset");
  const module = window.SPLAT_VIEWER ?? (await (await unpacked("supersplat")).text());
  const source = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
  const { createViewer } = await import(source);
  const viewer = await createViewer({
    container: document.getElementById("viewer"),
    settings: SETTINGS,
    contentUrl: "asset.ply",
    contents: Promise.resolve(contents),
    renderer: "webgl",
    noanim: true,
  });
  const show = () => {
    const asset = viewer.app.root.findOne((node) => node.gsplat);
    asset.setLocalEulerAngles(-90, -90, 0);
    viewer.state.cameraMode = "orbit";
    document.body.classList.add("shown");
    viewer.app.renderNextFrame = true;
  };
  window.viewer = viewer;
  viewer.state.loaded ? show() : viewer.events.once("loaded:changed", show);
}

start().catch(showError);
