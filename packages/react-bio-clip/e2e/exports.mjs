/**
 * The exports of the page's field notes, made in Node: node e2e/exports.mjs RECORDS FOLDER
 *
 * RECORDS is JSON: {records, offset, places}, as demo/src/field/forms takes them. Writes notes.csv, dwca.zip, and the
 * tables of camtrap-dp into FOLDER. With --capture instead: node e2e/exports.mjs --capture PHOTOGRAPH... prints what the
 * page reads from EXIF, a line of JSON for each.
 */

import {mkdir, readFile, writeFile} from 'node:fs/promises';
import path from 'node:path';
import {fileURLToPath} from 'node:url';

import {build} from 'esbuild';

const {toCsv, darwinCore, zipped, camtrapDp, fitting, capture} = await page();

if (process.argv[2] === '--capture') {
  for (const file of process.argv.slice(3)) {
    const {buffer} = Uint8Array.from(await readFile(file));
    console.log(JSON.stringify(await capture(buffer)));
  }
} else {
  const [, , given, folder] = process.argv;
  const {records, offset, places} = JSON.parse(await readFile(given, 'utf8'));
  await mkdir(path.join(folder, 'camtrap-dp'), {recursive: true});
  await writeFile(path.join(folder, 'notes.csv'), toCsv(records));
  await writeFile(path.join(folder, 'dwca.zip'), zipped(darwinCore(records)));
  for (const [name, text] of Object.entries(camtrapDp(fitting(records), offset, places))) {
    await writeFile(path.join(folder, 'camtrap-dp', name), text);
  }
}

/** The modules of the page. */
async function page() {
  const modules = ['forms/csv', 'forms/darwin-core', 'forms/camtrap', 'capture'];
  const stdin = {
    contents: modules.map((name) => `export * from './${name}.ts';`).join('\n'),
    resolveDir: fileURLToPath(new URL('../demo/src/field/', import.meta.url)),
  };
  const options = {bundle: true, format: 'esm', platform: 'browser', write: false, logLevel: 'error'};
  const {outputFiles} = await build({stdin, ...options});
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString('base64')}`);
}
