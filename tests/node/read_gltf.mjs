// Prints what Babylon.js reads from a .glb: a JSON list of its meshes, in glTF's axes.
import { readFileSync } from "fs";
import { NullEngine } from "@babylonjs/core/Engines/nullEngine.js";
import { LoadAssetContainerAsync } from "@babylonjs/core/Loading/sceneLoader.js";
import { GaussianSplattingMesh } from "@babylonjs/core/Meshes/GaussianSplatting/gaussianSplattingMesh.js";
import { Logger } from "@babylonjs/core/Misc/logger.js";
import { Scene } from "@babylonjs/core/scene.js";
import "@babylonjs/loaders/glTF/index.js";

Logger.LogLevels = Logger.NoneLogLevel;
// The rows that Babylon.js would send to the graphics card: position, scale, 8-bit colour with opacity, rotation.
GaussianSplattingMesh.prototype.updateDataAsync = async function (rows) {
  const floats = new Float32Array(rows);
  const bytes = new Uint8Array(rows);
  const count = rows.byteLength / 32;
  const each = (take) => Array.from({ length: count }, (_, i) => Array.from(take(i)));
  this.splats = {
    positions: each((i) => floats.slice(8 * i, 8 * i + 3)),
    scales: each((i) => floats.slice(8 * i + 3, 8 * i + 6)),
    colors: each((i) => bytes.slice(32 * i + 24, 32 * i + 28)),
    rotations: each((i) => bytes.slice(32 * i + 28, 32 * i + 32)),
  };
};
const data = new Uint8Array(readFileSync(process.argv[2]));
const scene = new Scene(new NullEngine());
scene.useRightHandedSystem = true;
const { meshes } = await LoadAssetContainerAsync(data, scene, { pluginExtension: ".glb" });
const list = (mesh, kind) => Array.from(mesh.getVerticesData(kind) ?? []);
const read = (mesh) =>
  mesh.splats ?? { positions: list(mesh, "position"), colors: list(mesh, "color"), indices: Array.from(mesh.getIndices()) };
const found = meshes.filter((mesh) => mesh.name !== "__root__").map((mesh) => ({ name: mesh.name, ...read(mesh) }));
process.stdout.write(JSON.stringify(found));
