// What a scene is made of: pictures, words, the path, and how. Only what differs from the folder's defaults is sent.

import { send, post } from "./api.js";
import { $, element, tell, trying } from "./dom.js";
import { startPath } from "./path.js";

const USUAL = ["size", "num_frames", "num_inference_steps", "guidance_scale", "seed"];
const ELSEWHERE = ["prompt", "cameras", "camera_angle", "camera_distance", "camera_easing", "task", "frame_index"];
const VIDEO = /\.(mp4|mov|m4v|mkv|webm|avi)$/i;

export const startForm = (about, list) => {
  const pictures = [];  // of { file, address }
  const inputs = new Map();

  for (const field of about.fields.filter(({ name }) => !ELSEWHERE.includes(name))) {
    const input = makeInput(field, about.settings);
    inputs.set(field.name, input);
    const name = field.name.replaceAll("_", " ");
    $(USUAL.includes(field.name) ? "usual" : "further").append(element("label", { title: field.help }, name, input));
  }
  const frames = () => Number(inputs.get("num_frames").value || about.settings.num_frames);
  const frameNumbers = () => [...$("pictures").querySelectorAll("input")].map((input) => input.value);
  const isVideo = () => pictures.length === 1 && VIDEO.test(pictures[0].file.name);

  // The fields of a request. `path` gives those of the cameras; without it there are none.
  const form = (path) => {
    if (!pictures.length) throw new Error("give a picture first: drop, paste or choose one");
    const made = new FormData();
    for (const { file } of pictures) made.append("images", file, file.name || "picture.png");
    for (const [name, input] of inputs) {
      const value = input.type === "checkbox" ? (input.checked ? "true" : "") : input.value.trim();
      if (value) made.append(name, value);
    }
    if (isVideo() && $("task").value !== "1view") made.append("task", $("task").value);
    if (pictures.length > 1) made.append("frame_index", frameNumbers().join(","));
    if ($("prompt").value.trim()) made.append("prompt", $("prompt").value.trim());
    if (path) for (const [name, value] of path) made.append(name, value, ...(value instanceof File ? [value.name] : []));
    return made;
  };

  const path = startPath(about, form);

  const showPictures = () => {
    const count = pictures.length;
    $("pictures").replaceChildren(...pictures.map(({ file, address }, index) => {
      const item = element("li", {});
      if (VIDEO.test(file.name)) item.append(element("div", {}, "video"));
      else item.append(element("img", { src: address, alt: file.name }));
      item.append(element("div", {}, file.name));
      if (count > 1) {
        const at = Math.round(index * (frames() - 1) / (count - 1));
        item.append(element("label", {}, "frame ", element("input", { type: "number", min: 0, max: frames() - 1, value: at })));
      }
      item.append(element("button", { type: "button", onclick: () => take(index) }, "remove"));
      return item;
    }));
    $("of-video").hidden = !isVideo();
    path.forget();
  };
  const add = (files) => {
    for (const file of files) pictures.push({ file, address: URL.createObjectURL(file) });
    showPictures();
  };
  const take = (index) => {
    URL.revokeObjectURL(pictures[index].address);
    pictures.splice(index, 1);
    showPictures();
    $("files").focus();
  };

  $("files").addEventListener("change", () => {
    add($("files").files);
    $("files").value = "";
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", name === "dragover");
      if (name === "drop") add(event.dataTransfer.files);
    });
  }
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) {
      event.preventDefault();
      add(event.clipboardData.files);
    }
  });
  inputs.get("num_frames").addEventListener("change", () => {
    if (pictures.length > 1) showPictures();
    path.forget();
  });

  const known = new Set(about.words);
  $("prompt").addEventListener("input", () => {
    const words = $("prompt").value.toLowerCase().match(/[\p{L}\p{N}]+/gu) || [];
    const unknown = known.size ? [...new Set(words.filter((word) => !known.has(word)))] : [];
    $("unknown").hidden = !unknown.length;
    $("unknown").textContent = `These weights do not know: ${unknown.join(", ")}`;
  });

  const make = async () => {
    if (!$("prompt").value.trim()) throw new Error("say what the scene shows");
    const scene = await send("/v1/scenes", form(await path.fields()));
    if ($("four").checked) {
      const seed = Number(inputs.get("seed").value || about.settings.seed);
      for (const more of [1, 2, 3]) await post(`/v1/scenes/${scene.id}/again`, { seed: seed + more });
    }
    await list.refresh();
  };
  $("make").addEventListener("submit", trying(make));
  $("reconstruct").addEventListener("click", trying(async () => {
    const whole = form(null);
    const kept = new FormData();
    for (const name of ["images", "size", "fit", "format", "fps"]) for (const value of whole.getAll(name)) kept.append(name, value);
    await send("/v1/reconstructions", kept);
    await list.refresh();
  }));
  tell("");
};

const makeInput = (field, settings) => {
  const usual = field.name === "size" ? `${settings.height} ${settings.width}` : field.default ?? "";
  if (field.kind === "switch") return element("input", { type: "checkbox" });
  if (field.choices.length && field.kind !== "list") {
    const input = element("select", {}, element("option", { value: "" }, usual === "" ? "default" : String(usual)));
    input.append(...field.choices.filter((choice) => choice !== usual).map((choice) => element("option", { value: choice }, choice)));
    return input;
  }
  return element("input", { type: "text", placeholder: String(usual), inputMode: typeof usual === "number" ? "decimal" : "text" });
};
