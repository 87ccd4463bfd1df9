// The points of the given pictures, the cameras of the path, and in a corner what the camera of a frame would see.
// The world has OpenCV axes (y down, z forward); three.js has y up, and its cameras look along -z.

const THREE = window.THREE;
const HELPERS = 1;  // layer of what only the visitor sees
const INSET = 0.32;  // of the canvas's width
const STEP = 0.08;  // of the depth, for a press of a button
const TURN = 4 * Math.PI / 180;

const flip = new THREE.Matrix4().makeScale(1, -1, -1);
const toThree = (c2w) => flip.clone().multiply(new THREE.Matrix4().set(...c2w.flat())).multiply(flip);

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true });
    this.renderer.autoClear = false;
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(60, 1, 0.01, 1000);
    this.camera.layers.enable(HELPERS);
    this.flying = new THREE.PerspectiveCamera(60, 1, 0.01, 1000);
    this.controls = new THREE.TrackballControls(this.camera, canvas);
    this.controls.staticMoving = true;
    this.controls.keys = ["", "", ""];
    this.controls.addEventListener("change", () => { this.dirty = true; });
    canvas.addEventListener("webglcontextrestored", () => { this.dirty = true; });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.dirty = true; });
    const loop = () => {
      requestAnimationFrame(loop);
      if (!canvas.clientWidth) return;
      this.controls.update();
      if (this.dirty || canvas.width !== Math.round(canvas.clientWidth * devicePixelRatio)) this.draw();
    };
    loop();
  }

  // What a preview tells.
  show({ points, colors, c2w, intrinsics, width, height, depth }) {
    this.scene.traverse((node) => { node.geometry?.dispose(); node.material?.dispose(); });
    this.scene.clear();
    Object.assign(this, { depth, width, height, poses: c2w.map(toThree) });
    this.fov = 2 * Math.atan(height / 2 / intrinsics[1][1]) * 180 / Math.PI;
    const cloud = new THREE.BufferGeometry();
    cloud.setAttribute("position", new THREE.Float32BufferAttribute(points, 3).applyMatrix4(flip));
    cloud.setAttribute("color", new THREE.Uint8BufferAttribute(colors, 3, true));
    this.scene.add(new THREE.Points(cloud, new THREE.PointsMaterial({ size: 3, sizeAttenuation: false, vertexColors: true })));
    if (this.poses.length) {
      const way = new THREE.BufferGeometry().setFromPoints(this.poses.map((pose) => new THREE.Vector3().setFromMatrixPosition(pose)));
      this.helper(new THREE.Line(way, new THREE.LineBasicMaterial({ color: 0xe0457b })));
      for (const pose of this.poses) this.helper(this.frustum(pose, 0x8a93a0));
    }
    this.marked = this.helper(this.frustum(new THREE.Matrix4(), 0xe0457b));
    this.home();
    this.frame(0);
  }

  helper(node) {
    node.layers.set(HELPERS);
    this.scene.add(node);
    return node;
  }

  frustum(pose, color) {
    const far = 0.12 * this.depth;
    const y = far * Math.tan(this.fov * Math.PI / 360);
    const x = y * this.width / this.height;
    const corners = [[-x, -y, -far], [x, -y, -far], [x, y, -far], [-x, y, -far]];
    const ends = corners.flatMap((corner, index) => [[0, 0, 0], corner, corner, corners[(index + 1) % 4]]);
    const edges = new THREE.BufferGeometry().setAttribute("position", new THREE.Float32BufferAttribute(ends.flat(), 3));
    const made = new THREE.LineSegments(edges, new THREE.LineBasicMaterial({ color, depthTest: false }));
    made.matrixAutoUpdate = false;
    made.matrix.copy(pose);
    return made;
  }

  // Marks the camera of a frame, and looks through it in the corner.
  frame(index) {
    const pose = this.poses[index] || new THREE.Matrix4();
    this.marked.matrix.copy(pose);
    pose.decompose(this.flying.position, this.flying.quaternion, this.flying.scale);
    this.dirty = true;
  }

  // Looks from a little behind the first camera.
  home() {
    this.look(new THREE.Vector3(0, 0.15 * this.depth, 0.6 * this.depth), new THREE.Vector3(0, 0, -this.depth));
  }

  // Looks from where the first camera stands, to set key poses from.
  first() {
    this.look(new THREE.Vector3(), new THREE.Vector3(0, 0, -this.depth));
  }

  look(from, to) {
    this.camera.up.set(0, 1, 0);
    this.camera.position.copy(from);
    this.controls.target.copy(to);
    this.camera.lookAt(to);
    this.dirty = true;
  }

  // Moves the view in its own axes: by steps to the right, up and forward, and turns it by steps to the left and up.
  move(right, up, forward, left = 0, tilt = 0) {
    const axes = ["x", "y", "z"].map((_, column) => new THREE.Vector3().setFromMatrixColumn(this.camera.matrixWorld, column));
    const ahead = this.controls.target.clone().sub(this.camera.position);
    const step = STEP * this.depth;
    this.camera.position.addScaledVector(axes[0], right * step).addScaledVector(axes[1], up * step).addScaledVector(axes[2], -forward * step);
    ahead.applyAxisAngle(axes[1], left * TURN).applyAxisAngle(axes[0], tilt * TURN);
    this.controls.target.copy(this.camera.position).add(ahead);
    this.camera.lookAt(this.controls.target);
    this.camera.updateMatrixWorld();
    this.dirty = true;
  }

  // The view as a camera of nerfstudio's camera_path.json: rows of a matrix to the world, in OpenGL axes.
  pose() {
    this.camera.updateMatrixWorld();
    return flip.clone().multiply(this.camera.matrixWorld).transpose().toArray();
  }

  draw() {
    this.dirty = false;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    this.renderer.setPixelRatio(devicePixelRatio);
    this.renderer.setSize(width, height, false);
    this.controls.handleResize();
    const render = (camera, x, y, w, h, color) => {
      camera.aspect = w / h;
      camera.updateProjectionMatrix();
      this.renderer.setViewport(x, y, w, h);
      this.renderer.setScissor(x, y, w, h);
      this.renderer.setScissorTest(true);
      this.renderer.setClearColor(color);
      this.renderer.clear();
      this.renderer.render(this.scene, camera);
    };
    this.camera.fov = Math.max(this.fov, 40);
    this.camera.near = this.flying.near = this.depth / 1000;
    this.camera.far = this.flying.far = this.depth * 1000;
    render(this.camera, 0, 0, width, height, dark ? 0x14171a : 0xf6f6f3);
    const w = Math.round(INSET * width);
    const h = Math.round(w * this.height / this.width);
    this.flying.fov = this.fov;
    if (h < height) render(this.flying, width - w - 8, 8, w, h, dark ? 0x000000 : 0xffffff);
  }
}
