import assert from 'node:assert/strict';
import {before, mock, test} from 'node:test';

import {serve} from '../dist/core/worker-server.js';
import {startNodeBackend} from '../dist/core/node.js';
import {loadBioClip, loadInWorker} from '../dist/index.js';
import {makeBundle, plain} from './fixture.js';

const MADE = makeBundle();
const RED = plain([255, 0, 0]);

before(() => startNodeBackend('wasm'));

/** Both ends in one thread, with the structured clones of a real worker between them. */
async function connected(work, source = MADE, options = {}) {
  const {port1, port2} = new MessageChannel();
  try {
    serve(port2);
    await work(port1, () => loadInWorker(port1, source, options));
  } finally {
    port1.close();
  }
}

test('a worker answers as the page itself would', () =>
  connected(async (_, load) => {
    const [there, here] = [await load(), await loadBioClip(MADE)];
    assert.deepEqual(there.info, here.info);
    assert.match(there.sha256, /^[0-9a-f]{64}$/);
    assert.equal(there.sha256, here.sha256);
    assert.deepEqual(await there.classify(RED, {topK: 2}), await here.classify(RED, {topK: 2}));
    const two = [RED, plain([0, 255, 0])];
    assert.deepEqual(await there.classify(two), await here.classify(two));
    await assert.rejects(there.classify([]), {code: 'argument'});
    assert.deepEqual(await there.embed(RED), await here.embed(RED));
    assert.equal(RED.data.length, 20 * 14 * 3); // still the caller's
    there.dispose();
    await assert.rejects(there.classify(RED), /disposed of/);
    here.dispose();
  }));

test('errors, progress and cancelling go through', async () => {
  const seen = [];
  await connected(
    async (_, load) => {
      const clip = await load();
      assert.equal(seen.at(-1).loaded, MADE.bundle.bytes);
      await assert.rejects(clip.classify({data: new Uint8Array(5), width: 1, height: 1}), {name: 'BioClipError'});
      await assert.rejects(clip.classify(RED, {rank: 'tribe'}), /rank is tribe/);
      const stop = new AbortController();
      const call = clip.classify(RED, {signal: stop.signal});
      stop.abort();
      await assert.rejects(call, {name: 'AbortError'});
      assert.equal((await clip.classify(RED)).answer.name, 'Morus bassanus');
    },
    MADE,
    {onProgress: (progress) => seen.push(progress)},
  );
  const bad = makeBundle();
  const [name] = Object.keys(bad.files);
  bad.files[name] = bad.files[name].map((b) => b ^ 1);
  await connected(
    (_, load) =>
      assert.rejects(
        load(),
        (error) => error.name === 'BioClipError' && error.file === name && error.code === 'damaged',
      ),
    bad,
  );
  await connected(
    (_, load) => assert.rejects(load(), /cannot be sent to a worker/),
    () => null,
  );
  const publicKey = 'a key';
  await connected((_, load) => assert.rejects(load(), {code: 'argument', message: /publicKey/}), MADE, {publicKey});
});

test('a worker whose script does not answer is given up', async (t) => {
  const {port1, port2} = new MessageChannel();
  t.after(() => port1.close());
  mock.timers.enable({apis: ['setTimeout']});
  t.after(() => mock.timers.reset());
  port2.start(); // a script without the import
  const loading = assert.rejects(loadInWorker(port1, MADE), {
    code: 'timeout',
    message: /does its script import 'react-bio-clip\/worker'/,
  });
  await Promise.resolve();
  mock.timers.tick(60_000);
  await loading;
});
