/** The camera of React Native in a document: only the modules of a device are replaced. */

import assert from 'node:assert/strict';
import {register} from 'node:module';
import {after, afterEach, beforeEach, test} from 'node:test';

import {Window} from 'happy-dom';

const window = new Window({url: 'https://localhost/'}); // before React looks for one
for (const name of ['document', 'HTMLElement', 'HTMLIFrameElement', 'Event']) globalThis[name] = window[name];
globalThis.window = window;
Object.defineProperty(globalThis, 'navigator', {value: window.navigator, configurable: true});
globalThis.IS_REACT_ACT_ENVIRONMENT = true;

/** Elements of a page in the place of native ones; `device` says what the camera does. */
const REACT = `import {createElement as h, useEffect, useImperativeHandle, useState} from ${JSON.stringify(import.meta.resolve('react'))};`;
const MODULES = {
  'react-native': `${REACT}
    export const View = ({accessibilityLiveRegion, children}) => h('div', {'aria-live': accessibilityLiveRegion}, children);
    export const Text = ({accessibilityRole, children}) => h('span', {role: accessibilityRole}, children);
    export const Pressable = ({disabled, onPress, children}) => h('button', {disabled, onClick: onPress}, children);
    export const Linking = {openSettings: async () => void device.calls.push('settings')};
    export const AppState = {get currentState() { return device.appState; }};`,
  'expo-camera': `${REACT}
    export function CameraView({ref, onCameraReady, onMountError}) {
      useImperativeHandle(ref, () => ({
        async takePictureAsync() {
          const uri = 'file:///' + device.taken++ + '.jpg';
          device.files.add(uri);
          return {uri};
        },
        pausePreview: async () => void device.calls.push('pause'),
        resumePreview: async () => void device.calls.push('resume'),
      }));
      useEffect(() => void (device.isBroken ? onMountError({message: 'in use'}) : onCameraReady()), []);
      return h('video');
    }
    export function useCameraPermissions() {
      const [permission, set] = useState(device.permission);
      const ask = async () => set({granted: device.grants, canAskAgain: false});
      return [permission, ask];
    }`,
};
const source = (code) => `data:text/javascript,${encodeURIComponent(code)}`;
const addresses = Object.fromEntries(Object.entries(MODULES).map(([name, code]) => [name, source(code)]));
register(
  source(`const addresses = ${JSON.stringify(addresses)};
    export const resolve = (name, context, next) =>
      name in addresses ? {url: addresses[name], shortCircuit: true} : next(name, context);`),
);

const {act, createElement: h} = await import('react');
const {createRoot} = await import('react-dom/client');
const {BioClipCamera} = await import('../dist/native/camera.js');

const ANSWER = {taxa: [], ranks: {}, answer: {rank: 'genus', name: 'Morus'}};
let root;
beforeEach(() => {
  const permission = {granted: true, canAskAgain: true};
  globalThis.device = {calls: [], files: new Set(), taken: 0, permission, grants: true, appState: 'active'};
  root = createRoot(document.body.appendChild(document.createElement('div')));
});
afterEach(() => act(async () => root.unmount()));
after(() => window.happyDOM.abort());

const show = (props) => act(async () => root.render(h(BioClipCamera, props, ({answer}) => answer?.answer.name)));
const settle = (milliseconds = 0) => act(async () => new Promise((resolve) => setTimeout(resolve, milliseconds)));
const buttons = () => [...document.querySelectorAll('button')];
const press = (label) =>
  act(async () =>
    buttons()
      .find(({textContent}) => textContent === label)
      .click(),
  );

test('the shutter classifies a photograph, which is kept, and the preview goes on after it', async () => {
  const given = [];
  const photos = [];
  const classifyUri = async (uri, {topK, signal}) => {
    given.push([uri, topK, signal.aborted]);
    return ANSWER;
  };
  const remove = () => assert.fail('photographs of the shutter stay');
  const onAnswer = (answer, photo) => photos.push([answer, photo]);
  await show({classifyUri: undefined});
  assert.equal(buttons()[0].disabled, true); // the model loads
  await show({classifyUri, options: {topK: 2}, remove, onAnswer, onPhoto: (uri) => photos.push(uri)});
  await press('Take a photograph');
  assert.deepEqual(given, [['file:///0.jpg', 2, false]]);
  assert.deepEqual(photos, ['file:///0.jpg', [ANSWER, 'file:///0.jpg']]);
  assert.match(document.querySelector('[aria-live=polite]').textContent, /^Morus$/);
  await press('Take another');
  assert.deepEqual(device.calls, ['pause', 'resume']);
  assert.equal(document.querySelector('[aria-live=polite]').textContent, '');
});

test('continuous answers delete their photographs, and rest in the background and after the end', async () => {
  let answers = 0;
  const signals = [];
  const classifyUri = async (_, {signal}) => {
    signals.push(signal);
    answers++;
    if (answers === 2) throw new Error('too dark');
    return ANSWER;
  };
  const remove = (uri) => assert.ok(device.files.delete(uri));
  await show({classifyUri, continuous: true, interval: 1, remove});
  for (let tries = 0; tries < 200 && answers < 3; tries++) await settle(5);
  assert.ok(answers >= 3); // one failure is no end
  assert.ok(!buttons().length && !device.calls.length);
  device.appState = 'background';
  await settle(30);
  const before = answers;
  await settle(30);
  assert.equal(answers, before);
  device.appState = 'active';
  await show({classifyUri: undefined, continuous: true, interval: 1, remove});
  assert.ok(signals.at(-1).aborted);
  assert.equal(device.files.size, 0);
});

test('an error of a photograph is told, and another one may be taken', async () => {
  const classifyUri = async () => {
    throw new Error('the photograph cannot be decoded');
  };
  await show({classifyUri, labels: {failed: 'Leider'}});
  await press('Take a photograph');
  assert.match(document.body.textContent, /Leider: the photograph cannot be decoded/);
  assert.equal(buttons()[0].textContent, 'Take another');
});

test('permission is asked for, and where it is refused the settings are offered', async () => {
  device.permission = {granted: false, canAskAgain: true};
  device.grants = false;
  await show({classifyUri: async () => ANSWER});
  assert.match(document.body.textContent, /Photographs stay on this device/);
  await press('Allow the camera');
  assert.match(document.querySelector('[role=alert]').textContent, /may not be used/);
  await press('Open the settings');
  assert.deepEqual(device.calls, ['settings']);
});

test('a camera that does not start may be tried again', async () => {
  device.isBroken = true;
  await show({classifyUri: async () => ANSWER});
  assert.match(document.querySelector('[role=alert]').textContent, /Another application/);
  device.isBroken = false;
  await press('Try again');
  assert.equal(buttons()[0].textContent, 'Take a photograph');
  assert.equal(buttons()[0].disabled, false);
});
