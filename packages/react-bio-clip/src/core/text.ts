/** A text encoder: texts to embeddings in the space of the photographs. It has a folder of its own. */

import {BioClipError, throwIfAborted} from './errors.js';
import {download, openModel, type Download, type Kind, type ReadFolderOptions} from './folder.js';
import {readMeanwhile, turnsOf, unit, type Model} from './model.js';
import {concatenate, originOf, type Origin} from './origin.js';
import {readTable, softmax, type Table} from './taxa.js';
import {tokenizerOf, type Tokenizer} from './tokenizer.js';
import type {BioClipText, BundleInfo, TextInfo, TextLoadOptions, TextSource} from './types.js';

const TEXT: Kind<TextInfo> = {
  manifest: 'text.json',
  label: 'text encoder',
  formats: [1],
  uses: ({model, tokens, positions, merges}) => [model?.file, ...(tokens?.files ?? []), positions?.file, merges?.file],
};

export interface TextModel {
  info: TextInfo;
  model: Model;
  tokenizer: Tokenizer;
  table: Table;
  /** Context x width, row by row. */
  positions: Float32Array;
}

type ReadTextOptions = ReadFolderOptions & Pick<TextLoadOptions, 'for'>;

/** Load a text encoder on the current TensorFlow.js backend. */
export async function openText(origin: Origin, options: ReadTextOptions = {}): Promise<TextModel> {
  return openDownload(await downloadText(origin, options), options.signal);
}

function downloadText(origin: Origin, options: ReadTextOptions): Promise<Download<TextInfo>> {
  const {for: bundle} = options;
  const check = (info: TextInfo) => bundle && checkTeacher(info, bundle); // before the large download
  return download(origin, {...TEXT, check}, options);
}

function checkTeacher(info: TextInfo, bundle: BundleInfo): void {
  const teacher = bundle.provenance?.teacher_identity;
  if (teacher !== info.teacher_identity || bundle.embedding !== info.embedding) {
    throw new BioClipError(
      'teacher',
      `the text encoder is of teacher ${info.teacher_identity} (${info.embedding} numbers), the bundle of teacher ` +
        `${teacher} (${bundle.embedding} numbers): their embeddings cannot be compared`,
      TEXT.manifest,
    );
  }
}

async function openDownload(found: Download<TextInfo>, signal?: AbortSignal): Promise<TextModel> {
  const {info, files} = found;
  const {tokens, context} = info;
  const {file} = info.merges;
  const tokenizer = tokenizerOf(new TextDecoder().decode(files.get(file)), file);
  const positions = new Float32Array(files.get(info.positions.file)!.slice().buffer);
  const [rows, columns] = [tokenizer.size, positions.length / context];
  const because = `${file} makes ${rows} tokens and ${info.positions.file} has vectors of ${columns} numbers`;
  const bytes = concatenate(tokens.files.map((name) => files.get(name)!));
  const table = readTable({...tokens, file: tokens.files[0]!}, bytes, {rows, columns, because});
  return {info, tokenizer, positions, table, model: await openModel(found, TEXT.manifest, signal)};
}

/** Load a text encoder; read its files while TensorFlow.js sets up a backend. */
export async function openTextEncoder(
  source: TextSource,
  options: ReadTextOptions = {},
  backendSet: Promise<void> = Promise.resolve(),
): Promise<BioClipText> {
  const read = async () => downloadText(await originOf(source, TEXT.manifest), options);
  const found = await readMeanwhile(backendSet, read, options.signal);
  return textOf(await openDownload(found, options.signal));
}

/** The unit embedding of a text, given its tokens. */
export async function embedTokens({info, model, tokenizer, table, positions}: TextModel, tokens: number[]) {
  const {context, embedding, hides_padding: hides} = info;
  const width = positions.length / context;
  const columns = hides ? width + 1 : width;
  const last = tokens.indexOf(tokenizer.end);
  const input = new Float32Array(context * columns);
  tokens.forEach((token, i) => {
    for (let c = 0; c < width; c++) {
      input[i * columns + c] = positions[i * width + c]! + table.scale[token]! * table.rows[token * width + c]!;
    }
    if (hides && i <= last) input[i * columns + width] = 1;
  });
  const output = await model.run(input, [1, context, 1, columns]);
  if (output.length !== context * embedding) {
    throw new BioClipError(
      'bundle',
      `${info.model.file} gives ${output.length} numbers for ${context} tokens, not ${embedding} for each`,
      info.model.file,
    );
  }
  return unit(output.subarray(last * embedding, (last + 1) * embedding), model.backend);
}

function textOf(parts: TextModel): BioClipText {
  const {info, model, tokenizer} = parts;
  const {check, inTurn, dispose} = turnsOf(model, TEXT.label);

  return {
    info,
    backend: model.backend,
    async embed(texts, {signal} = {}) {
      check();
      throwIfAborted(signal);
      if (!Array.isArray(texts) || texts.some((text) => typeof text !== 'string')) {
        throw new BioClipError('argument', 'not a list of texts: give an array of strings');
      }
      const vectors: Float32Array[] = [];
      for (const text of [...texts]) {
        if (vectors.length) await new Promise((resolve) => setTimeout(resolve)); // let the page draw and hear a click
        vectors.push(await inTurn(signal, () => embedTokens(parts, tokenizer.tokenize(text, info.context))));
      }
      return vectors;
    },
    dispose,
  };
}

/**
 * Probability of each text for a photograph, assuming that one of them is right.
 *
 * @param vector unit embedding of the photograph
 * @param vectors unit embeddings of the texts
 * @param info bundle.json of the classifier, whose scale and temperature apply
 */
export function compareTexts(
  embedding: Float32Array,
  vectors: readonly Float32Array[],
  {embedding: length, logit_scale, temperature}: Pick<BundleInfo, 'embedding' | 'logit_scale' | 'temperature'>,
): number[] {
  for (const vector of [embedding, ...vectors]) {
    if (vector.length !== length) {
      throw new BioClipError(
        'argument',
        `the embedding has ${vector.length} numbers; those of this bundle have ${length}`,
      );
    }
  }
  const cosine = (vector: Float32Array) => vector.reduce((sum, value, i) => sum + value * embedding[i]!, 0);
  return Array.from(
    softmax(
      Float32Array.from(vectors, (vector) => logit_scale * cosine(vector)),
      temperature,
    ),
  );
}
