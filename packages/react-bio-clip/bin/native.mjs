#!/usr/bin/env node
/**
 * Copy a bundle into an application, for its bundler Metro: bioclip-native BUNDLE FOLDER
 *
 * Metro takes only literal require() calls, so index.js lists them. It reads *.json as modules, which loses the bytes
 * that are checked, so all files but bundle.json end in .bin: add 'bin' to resolver.assetExts in metro.config.js.
 * index.d.ts tells TypeScript what index.js gives.
 */

import {existsSync} from 'node:fs';
import {copyFile, mkdir, readFile, writeFile} from 'node:fs/promises';
import path from 'node:path';

const [bundle, folder] = process.argv.slice(2);
if (!bundle || !folder || process.argv.length > 4) {
  console.error(
    'usage: bioclip-native BUNDLE FOLDER\n\nBUNDLE  folder that stage convert writes: data/convert/tfjs\nFOLDER  folder of the application, e.g. assets/oaks',
  );
  process.exit(2);
}

const HEAD = '// Written by bioclip-native';

try {
  const {checkFileName} = await import('../dist/core/names.js');
  const description = await readFile(path.join(bundle, 'bundle.json'), 'utf8');
  const names = Object.keys(JSON.parse(description).files).sort();
  for (const name of names) checkFileName(name, 'bundle.json');
  const asset = (name) => (name.endsWith('.bin') ? name : `${name}.bin`);
  const start = async (name) => (await readFile(path.join(folder, name), 'utf8').catch(() => '')).slice(0, HEAD.length);
  const isOurs = (await start('index.js')) === HEAD;
  const isThere = (name) => existsSync(path.join(folder, name));
  const others = [...names.map(asset), 'bundle.json', 'index.js'].filter((name) => !isOurs && isThere(name));
  if (isThere('index.d.ts') && (await start('index.d.ts')) !== HEAD) others.push('index.d.ts'); // older versions wrote none
  if (others.length) {
    throw new Error(
      `${others[0]} exists there, was not written by bioclip-native, and would be overwritten; choose another folder`,
    );
  }
  await mkdir(folder, {recursive: true});
  for (const name of names) await copyFile(path.join(bundle, name), path.join(folder, asset(name)));
  await writeFile(path.join(folder, 'bundle.json'), description);
  const lines = names.map((name) => `  ${JSON.stringify(name)}: require(${JSON.stringify(`./${asset(name)}`)}),\n`);
  await writeFile(
    path.join(folder, 'index.d.ts'),
    `${HEAD}.\ndeclare const bundled: import('react-bio-clip/native/expo').BundledFiles;\nexport = bundled;\n`,
  );
  await writeFile(
    path.join(folder, 'index.js'),
    `${HEAD}; run it again after the model has changed.\n` +
      `module.exports = {bundle: require('./bundle.json'), files: {\n${lines.join('')}}};\n`,
  );
  console.log(`${folder}: ${names.length + 3} files`);
} catch (error) {
  console.error(`${bundle} cannot be copied to ${folder}: ${error.message}`);
  process.exit(1);
}
