import assert from 'node:assert/strict';
import {mkdtemp, rm, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {test} from 'node:test';

import sharp from 'sharp';

import {decode, imageFiles} from '../dist/core/node.js';

/** One member of a ustar archive. */
function member(name, content, kind = '0') {
  const header = Buffer.alloc(512);
  header.write(name, 0);
  header.write(content.length.toString(8).padStart(11, '0'), 124);
  header.write(kind, 156);
  header.write('ustar\x0000', 257);
  return Buffer.concat([header, content, Buffer.alloc(-content.length & 511)]);
}

async function read(...members) {
  const folder = await mkdtemp(path.join(tmpdir(), 'tar-'));
  try {
    const file = path.join(folder, 'test.tar');
    await writeFile(file, Buffer.concat([...members, Buffer.alloc(1024)]));
    const found = [];
    for await (const {key, bytes} of imageFiles([file])) found.push([key, bytes.toString()]);
    return found;
  } finally {
    await rm(folder, {recursive: true});
  }
}

test('a tar gives its images in order, without the rest', async () => {
  const found = await read(
    member('b-1.jpg', Buffer.from('one')),
    member('b-1.json', Buffer.from('{}')),
    member('folder', Buffer.alloc(0), '5'),
    member('a.2.PNG', Buffer.from('x'.repeat(513))),
  );
  assert.deepEqual(found, [
    ['b-1', 'one'],
    ['a', 'x'.repeat(513)], // a webdataset key ends at the first dot
  ]);
});

test('a tar that ends too early or uses extensions is refused', async () => {
  await assert.rejects(read(member('pax', Buffer.from('20 path=long'), 'x')), /over 100 bytes/);
  const cut = member('a.jpg', Buffer.from('x'.repeat(4096))).subarray(0, 1024);
  await assert.rejects(read(cut), /ends inside a.jpg/);
  await assert.rejects(read(Buffer.alloc(512, 0x7a)), /damaged tar header/);
});

test('grey, transparent and turned images become upright RGB', async () => {
  const pixels = Uint8Array.from([10, 20, 30, 40, 50, 60]);
  const grey = await sharp(pixels, {raw: {width: 3, height: 2, channels: 1}})
    .png()
    .toBuffer();
  assert.deepEqual(
    [...(await decode(grey)).data],
    [...pixels].flatMap((v) => [v, v, v]),
  );
  const clear = await sharp({create: {width: 1, height: 1, channels: 4, background: '#ff000000'}})
    .png()
    .toBuffer();
  assert.deepEqual([...(await decode(clear)).data], [255, 255, 255]);
  const turned = await sharp(pixels, {raw: {width: 3, height: 2, channels: 1}})
    .withMetadata({orientation: 6})
    .png()
    .toBuffer();
  const {width, height} = await decode(turned);
  assert.deepEqual([width, height], [2, 3]);
});
