import assert from 'node:assert/strict';
import {readFile} from 'node:fs/promises';
import {after, afterEach, before, test} from 'node:test';

import {transform} from 'esbuild';
import {Window} from 'happy-dom';

import {startNodeBackend} from '../dist/core/node.js';
import {makeBundle, plain} from './fixture.js';

// A document before React looks for one.
const window = new Window({url: 'https://localhost/'});
const names = [
  'window',
  'document',
  'HTMLElement',
  'HTMLCanvasElement',
  'HTMLVideoElement',
  'HTMLImageElement',
  'Event',
];
for (const name of names) globalThis[name] = name === 'window' ? window : window[name];
Object.defineProperty(globalThis, 'navigator', {value: window.navigator, configurable: true});
globalThis.IS_REACT_ACT_ENVIRONMENT = true;

const {act, createElement: h, StrictMode} = await import('react');
const {createRoot} = await import('react-dom/client');
const {BioClipCamera, useBioClip, useBioClipFrom} = await import('../dist/react/index.js');

const ANSWER = {
  taxa: [],
  ranks: {},
  answer: {rank: 'genus', name: 'Morus', path: ['Plantae', 'Morus'], probability: 0.96},
};
const isAbort = (error) => error.name === 'AbortError';

before(() => startNodeBackend('wasm'));
after(() => window.happyDOM.abort());

let root = null;
afterEach(async () => {
  await act(async () => root?.unmount());
  root = null;
});

/** Mounts a component, or gives it new properties. */
async function render(element) {
  root ??= createRoot(document.body.appendChild(document.createElement('div')));
  await act(async () => root.render(element));
}

const settle = (milliseconds = 0) => act(async () => new Promise((resolve) => setTimeout(resolve, milliseconds)));

/** A loader that waits until it is told how loading ended, and remembers what became of its models. */
function fakeLoader() {
  const calls = [];
  const load = (source, options) =>
    new Promise((resolve, reject) => {
      const call = {source, options, disposed: 0};
      const clip = {info: {source}, classify: async () => ANSWER, dispose: () => void call.disposed++};
      calls.push(Object.assign(call, {clip, finish: () => resolve(clip), fail: reject}));
    });
  return {calls, load};
}

/** Renders the hook and keeps all that it returned. */
function probe(load) {
  const seen = [];
  const Probe = ({source, options}) => {
    seen.push(useBioClipFrom(load, source, options));
    return null;
  };
  return {seen, last: () => seen.at(-1), show: (props, Wrap = 'div') => render(h(Wrap, null, h(Probe, props)))};
}

// The hook

test('a model is loaded, used, and freed on unmount', async () => {
  const {calls, load} = fakeLoader();
  const {last, show} = probe(load);
  await show({source: 'a', options: {wasmPaths: '/wasm/'}});
  assert.deepEqual([last().status, last().clip, last().progress], ['loading', null, null]);
  assert.equal(calls[0].options.wasmPaths, '/wasm/');
  await assert.rejects(last().classify('photo'), /not loaded yet/);

  await act(async () => calls[0].options.onProgress({loaded: 1, total: 2}));
  assert.deepEqual(last().progress, {loaded: 1, total: 2});
  await act(async () => calls[0].finish());
  assert.deepEqual([last().status, last().clip, last().error], ['ready', calls[0].clip, null]);
  assert.equal(await last().classify('photo'), ANSWER);

  await act(async () => root.unmount());
  root = null;
  assert.equal(calls[0].disposed, 1);
  assert.ok(calls[0].options.signal.aborted);
});

test('StrictMode, and a render with equal options, load once', async () => {
  const {calls, load} = fakeLoader();
  const {last, show} = probe(load);
  await show({source: 'a', options: {}}, StrictMode);
  await act(async () => calls[0].finish());
  await show({source: 'a', options: {}}, StrictMode);
  assert.equal(calls.length, 1);
  assert.deepEqual([last().status, calls[0].disposed], ['ready', 0]);
});

test('another source: the old model is freed, and its late answers go nowhere', async () => {
  const {calls, load} = fakeLoader();
  const {seen, last, show} = probe(load);
  await show({source: 'a'});
  await act(async () => calls[0].finish());
  calls[0].clip.classify = () => new Promise((resolve) => setTimeout(resolve, 5, ANSWER));
  const pending = assert.rejects(last().classify('photo'), isAbort);
  const {classify} = last();

  const before = seen.length;
  await show({source: 'b'});
  assert.equal(calls[0].disposed, 1);
  assert.ok(seen.slice(before).every(({clip, status}) => clip === null && status === 'loading'));
  await pending;

  await show({source: 'c'}); // b is still loading
  await act(async () => calls[1].finish());
  assert.deepEqual([last().status, calls[1].disposed], ['loading', 1]);
  await act(async () => calls[2].finish());
  assert.equal(last().clip, calls[2].clip);
  assert.equal(last().classify, classify); // the same function throughout
});

test('an error is told, and the next source is tried', async () => {
  const {calls, load} = fakeLoader();
  const {last, show} = probe(load);
  await show({source: 'a'});
  await act(async () => calls[0].fail(new Error('weights.bin: HTTP status 404')));
  assert.deepEqual([last().status, last().error.message, last().clip], ['error', 'weights.bin: HTTP status 404', null]);
  await show({source: 'b'});
  assert.deepEqual([last().status, last().error], ['loading', null]);
  await show({source: null}); // nothing to load
  await settle();
  assert.equal(calls.length, 2);
  assert.ok(calls[1].options.signal.aborted);
});

test('another backend is another model', async () => {
  const {calls, load} = fakeLoader();
  const {last, show} = probe(load);
  await show({source: 'a', options: {backend: 'wasm'}});
  await act(async () => calls[0].finish());
  await show({source: 'a', options: {backend: 'webgl'}});
  assert.deepEqual([calls.length, calls[0].disposed, last().status], [2, 1, 'loading']);
  assert.equal(calls[1].options.backend, 'webgl');
});

test("the caller's signal cancels a classification", async () => {
  const {calls, load} = fakeLoader();
  const {last, show} = probe(load);
  await show({source: 'a'});
  await act(async () => calls[0].finish());
  const given = [];
  calls[0].clip.classify = (_image, {signal, topK}) => {
    given.push(topK);
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  };
  const controller = new AbortController();
  const pending = last().classify('photo', {topK: 3, signal: controller.signal});
  controller.abort();
  await assert.rejects(pending, isAbort);
  assert.deepEqual(given, [3]);
});

test('useBioClip loads a real bundle', async () => {
  let hook;
  const bundle = makeBundle();
  const Probe = () => {
    hook = useBioClip(bundle);
    return null;
  };
  await render(h(Probe));
  for (let i = 0; hook.status === 'loading' && i < 100; i++) await settle(20);
  assert.equal(hook.error, null);
  assert.equal((await hook.classify(plain([255, 0, 0]))).answer.name, 'Morus bassanus');
});

// The camera

function fakeCamera({fails = []} = {}) {
  const tracks = [];
  const asked = [];
  const getUserMedia = async (constraints) => {
    asked.push(constraints);
    const failure = fails.shift();
    if (failure) throw Object.assign(new Error(failure), {name: failure});
    const track = Object.assign(new window.EventTarget(), {stopped: false, stop: () => (track.stopped = true)});
    tracks.push(track);
    return {getTracks: () => [track]};
  };
  Object.defineProperty(window.navigator, 'mediaDevices', {value: {getUserMedia}, configurable: true});
  const video = window.HTMLVideoElement.prototype;
  const played = [];
  for (const name of ['play', 'pause']) video[name] = async () => void played.push(name);
  Object.defineProperty(video, 'srcObject', {value: null, writable: true, configurable: true}); // takes no stand-in
  return {tracks, asked, played};
}

const text = () => document.body.textContent;
const button = (label) => [...document.querySelectorAll('button')].find((element) => element.textContent === label);
const press = (label) => act(async () => button(label).click());

test('preview, shutter, answer, and once more', async () => {
  const {tracks, asked, played} = fakeCamera();
  const photos = [];
  const answers = [];
  const classify = async (image, {topK, signal}) => {
    assert.ok(image instanceof window.HTMLCanvasElement && topK === 3 && !signal.aborted);
    return ANSWER;
  };
  const props = {
    classify,
    options: {topK: 3},
    onPhoto: (photo) => photos.push(photo),
    onAnswer: (...got) => answers.push(got),
  };
  const draw = ({answer}) => answer && h('b', null, answer.answer.name);
  await render(h(BioClipCamera, {...props, ready: false}, draw));
  assert.equal(asked[0].video.facingMode.ideal, 'environment');
  assert.equal(asked[0].audio, false);
  assert.ok(document.querySelector('video').srcObject);
  assert.equal(button('Take a photograph').disabled, true); // the model is not there yet

  await render(h(BioClipCamera, {...props, ready: true}, draw));
  await press('Take a photograph');
  assert.equal(document.querySelector('[aria-live=polite] b').textContent, 'Morus');
  assert.deepEqual(answers, [[ANSWER, photos[0]]]);
  await press('Take another');
  assert.equal(document.querySelector('b'), null);
  assert.ok(button('Take a photograph'));

  await press('Take a photograph');
  assert.equal(played.at(-1), 'pause');
  await render(h(BioClipCamera, {...props, classify: () => new Promise(() => {}), continuous: true}, draw));
  assert.equal(played.at(-1), 'play'); // not the frozen picture again and again

  assert.equal(tracks[0].stopped, false);
  await act(async () => root.unmount());
  root = null;
  assert.ok(tracks[0].stopped);
});

test('without permission or camera there is a message, and another try', async () => {
  const messages = {
    NotAllowedError: /may not be used/,
    NotFoundError: /no camera/,
    NotReadableError: /Another program/,
  };
  const {tracks} = fakeCamera({fails: Object.keys(messages)});
  await render(h(BioClipCamera, {classify: async () => ANSWER, labels: {retry: 'Noch einmal'}}));
  for (const message of Object.values(messages)) {
    assert.match(document.querySelector('[role=alert]').textContent, message);
    assert.equal(button('Take a photograph'), undefined);
    await press('Noch einmal');
  }
  assert.equal(document.querySelector('[role=alert]'), null);
  await act(async () => tracks[0].dispatchEvent(new window.Event('ended'))); // unplugged
  assert.match(text(), /Another program/);
});

test('a page that browsers give no camera says why', async () => {
  Object.defineProperty(window.navigator, 'mediaDevices', {value: undefined, configurable: true});
  await render(h(BioClipCamera, {classify: async () => ANSWER}));
  assert.match(document.querySelector('[role=alert]').textContent, /https/);
  assert.equal(document.querySelector('button'), null);
});

test('StrictMode leaves one camera running', async () => {
  const {tracks} = fakeCamera();
  await render(h(StrictMode, null, h(BioClipCamera, {classify: async () => ANSWER})));
  assert.deepEqual(
    tracks.map(({stopped}) => stopped),
    [true, false],
  );
});

test('continuous answers follow one another, survive a failure, and end when told', async () => {
  fakeCamera();
  let calls = 0;
  let running = 0;
  const classify = async (image, {signal}) => {
    assert.ok(image instanceof window.HTMLVideoElement);
    assert.equal(running, 0); // never two at once
    running++;
    await new Promise((resolve) => setTimeout(resolve, 8));
    running--;
    calls++;
    if (calls === 2) throw new Error('out of memory');
    if (signal.aborted) throw Object.assign(new Error('over'), {name: 'AbortError'});
    return ANSWER;
  };
  const answers = [];
  const props = {classify, continuous: true, interval: 1, onAnswer: (answer) => answers.push(answer)};
  await render(h(BioClipCamera, props));
  assert.equal(button('Take a photograph'), undefined);
  for (let i = 0; calls < 4 && i < 200; i++) await settle(2);
  assert.ok(answers.length >= 2);
  while (!running) await settle(); // an answer is under way
  await render(h(BioClipCamera, {...props, continuous: false}));
  await settle(15);
  const ended = calls;
  await settle(40);
  assert.equal(calls, ended);
});

test("the README's example works", async () => {
  fakeCamera();
  const readme = await readFile(new URL('../README.md', import.meta.url), 'utf8');
  const [, example] = readme.match(/```jsx\n(.*?)```/s);
  const {code} = await transform(example, {loader: 'jsx', format: 'cjs'});
  const calls = [];
  const react = {
    BioClipCamera,
    useBioClip: (source, options) => {
      calls.push([source, options]);
      return useBioClipFrom(async () => ({classify: async () => ANSWER, dispose: () => {}}), source, options);
    },
  };
  const module = {exports: {}};
  new Function('module', 'require', 'React', code)(module, () => react, {createElement: h});
  await render(h(module.exports.WhatIsThis));
  await press('Take a photograph');
  assert.match(text(), /genus Morus/);
  assert.deepEqual(calls[0], ['/models/oaks/', {wasmPaths: '/wasm/'}]);
});
