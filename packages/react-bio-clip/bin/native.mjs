#!/usr/bin/env node
/**
 * Copies a bundle to where an application's bundler (Metro) finds it: bioclip-native BUNDLE FOLDER
 *
 * Metro takes only literal require() calls, so index.js lists them. It reads *.json as modules, which loses the bytes
 * that are checked, so all files but bundle.json end in .bin: add 'bin' to resolver.assetExts in metro.config.js.
 */

import {copyFile, mkdir, readFile, writeFile} from 'node:fs/promises';
import path from 'node:path';

const [bundle, folder] = process.argv.slice(2);
if (!bundle || !folder || process.argv.length > 4) {
  console.error('usage: bioclip-native BUNDLE FOLDER\n\nBUNDLE  folder that stage convert wrote: data/convert/tfjs');
  process.exit(2);
}

try {
  const description = await readFile(path.join(bundle, 'bundle.json'), 'utf8');
  const names = Object.keys(JSON.parse(description).files).sort();
  await mkdir(folder, {recursive: true});
  const asset = (name) => (name.endsWith('.bin') ? name : `${name}.bin`);
  for (const name of names) await copyFile(path.join(bundle, name), path.join(folder, asset(name)));
  await writeFile(path.join(folder, 'bundle.json'), description);
  const lines = names.map((name) => `  ${JSON.stringify(name)}: require(${JSON.stringify(`./${asset(name)}`)}),\n`);
  await writeFile(
    path.join(folder, 'index.js'),
    `// Written by bioclip-native; run it again after the model has changed.\n` +
      `module.exports = {bundle: require('./bundle.json'), files: {\n${lines.join('')}}};\n`,
  );
  console.log(`${folder}: ${names.length + 2} files`);
} catch (error) {
  console.error(`${bundle} cannot be copied to ${folder}: ${error.message}`);
  process.exit(1);
}
