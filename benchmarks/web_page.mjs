/**
 * What runs in a page of web.mjs: one model in one runtime (whose parts lie in globalThis.runtime), whose inferences
 * are asked for one at a time.
 */

const parameters = new URL(location.href).searchParams;
const threads = Number(parameters.get('threads'));
const size = Number(parameters.get('size'));

/** Values between -1 and 1 that look like nothing in particular, the same in every page: size x size x 3. */
function image() {
  const values = new Float32Array(size * size * 3);
  for (let i = 0; i < values.length; i++) values[i] = Math.sin(0.01 * i) * Math.cos(0.0007 * i * (i % 3));
  return values;
}

async function tensorflow() {
  const {startBackend, predict, downloadBundle, openDownload, originOf} = globalThis.runtime;
  const backend = startBackend({backend: parameters.get('backend'), wasmPaths: '/wasm/', threads});
  const [download] = await Promise.all([downloadBundle(await originOf('/bundle/'), {}), backend]); // as loadBioClip does
  const bundle = await openDownload(download);
  const input = image();
  return () => predict(bundle, input);
}

async function onnx() {
  const ort = globalThis.runtime;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = '/ort/';
  const session = await ort.InferenceSession.create('/model.onnx', {executionProviders: ['wasm']});
  const [channelsLast, channelsFirst] = [image(), new Float32Array(size * size * 3)];
  for (let p = 0; p < size * size; p++) for (let c = 0; c < 3; c++) channelsFirst[c * size * size + p] = channelsLast[3 * p + c];
  const input = new ort.Tensor('float32', channelsFirst, [1, 3, size, size]);
  return async () => Object.values(await session.run({[session.inputNames[0]]: input}))[0].data;
}

const ready = (parameters.get('runtime') === 'onnx' ? onnx : tensorflow)();

globalThis.benchmark = {
  /** From the start of the page to its first answer, in milliseconds, and that answer. */
  first: async () => {
    const vector = [...(await (await ready)())];
    const milliseconds = performance.now();
    const {getThreadsCount} = globalThis.runtime;
    const started = getThreadsCount && parameters.get('backend') === 'wasm' ? getThreadsCount() : threads;
    return {milliseconds, vector, isolated: globalThis.crossOriginIsolated, started};
  },
  once: async () => {
    const run = await ready;
    const start = performance.now();
    await run();
    return performance.now() - start;
  },
};
