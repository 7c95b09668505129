#!/usr/bin/env node
/** Print tokens and unit embeddings of texts, computed in Node; see ../README.md. */

import {readFileSync} from 'node:fs';

import {command} from './built.mjs';

await command(async () => {
  const {folderOrigin, startNodeBackend} = await import('../dist/core/node.js');
  const {embedTokens, openText} = await import('../dist/core/text.js');

  const [folder, file] = process.argv.slice(2);
  if (!file || process.argv.length > 4) throw new Error('usage: text.mjs FOLDER TEXTS.json');
  const texts = JSON.parse(readFileSync(file, 'utf8'));
  await startNodeBackend('wasm');
  const encoder = await openText(folderOrigin(folder));
  const tokens = texts.map((text) => encoder.tokenizer.tokenize(text, encoder.info.context));
  const embeddings = [];
  for (const row of tokens) embeddings.push([...(await embedTokens(encoder, row))]);
  console.log(JSON.stringify({tokens, embeddings}));
});
