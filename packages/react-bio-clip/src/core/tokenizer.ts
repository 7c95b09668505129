/** Byte-pair encoding over words, as in open_clip's SimpleTokenizer. */

import {BioClipError} from './errors.js';

export interface Tokenizer {
  /** Size of the vocabulary: 256 bytes, as many that end a word, one per merge, and two for start and end. */
  size: number;
  /** The token after a text, the last of the vocabulary. */
  end: number;
  /** `length` tokens: start, the text as far as there is room, end, zeros. */
  tokenize(text: string, length: number): number[];
}

const WORD_END = '</w>';
// As in open_clip, these two in a text become the tokens themselves: an end token within a text ends it there.
const SPECIAL = ['<start_of_text>', '<end_of_text>'];
// Texts are in lower case by then.
const WORDS = /<start_of_text>|<end_of_text>|'(?:[stmd]|re|ve|ll)|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
const CACHED = 10_000;

/** `merges`: a pair "left right" on each line, the first to be merged first. */
export function tokenizerOf(merges: string, file = 'the merges'): Tokenizer {
  const lines = merges.split('\n');
  if (lines.at(-1) === '') lines.pop();
  const size = 2 * 256 + lines.length + SPECIAL.length;
  const [start, end] = [size - 2, size - 1];

  const {ids, tokenOf} = alphabet();
  const merged = new Map<number, number>(); // pair of tokens, left * size + right, to merged token
  lines.forEach((line, rank) => {
    const [left = '', right = '', more] = line.split(' ');
    const [first, second] = [ids.get(left), ids.get(right)];
    if (first === undefined || second === undefined || more !== undefined) {
      throw new BioClipError('bundle', `line ${rank + 1} of ${file} is no pair of earlier tokens: ${line}`, file);
    }
    const token = 2 * 256 + rank;
    ids.set(left + right, token);
    merged.set(first * size + second, token);
  });

  const encoder = new TextEncoder();
  const special = new Map(SPECIAL.map((word, i) => [word, [start + i]]));
  const cache = new Map<string, number[]>();

  function tokensOf(word: string): number[] {
    const found = special.get(word) ?? cache.get(word);
    if (found) return found;
    let tokens = Array.from(encoder.encode(word), (byte) => tokenOf[byte]!);
    tokens[tokens.length - 1]! += 256;
    for (let token = firstMerge(tokens); token < Infinity; token = firstMerge(tokens)) tokens = merge(tokens, token);
    if (cache.size >= CACHED) cache.clear();
    cache.set(word, tokens);
    return tokens;
  }

  /** The token of the pair of neighbours to merge first: the lowest one, because tokens are numbered by rank. */
  function firstMerge(tokens: number[]): number {
    let lowest = Infinity;
    for (let i = 1; i < tokens.length; i++) {
      lowest = Math.min(lowest, merged.get(tokens[i - 1]! * size + tokens[i]!) ?? Infinity);
    }
    return lowest;
  }

  /** Merge, from the left, all neighbours that become `token`. */
  function merge(tokens: number[], token: number): number[] {
    const result: number[] = [];
    for (let i = 0; i < tokens.length; i++) {
      const both = i + 1 < tokens.length && merged.get(tokens[i]! * size + tokens[i + 1]!) === token;
      result.push(both ? token : tokens[i]!);
      if (both) i++;
    }
    return result;
  }

  return {
    size,
    end,
    tokenize(text, length) {
      const tokens = [start];
      for (const [word] of clean(text).matchAll(WORDS)) {
        if (tokens.length >= length) break; // no room for more
        for (const token of tokensOf(word)) tokens.push(token);
      }
      const cut = [...tokens.slice(0, length - 1), end];
      return [...cut, ...new Array<number>(length - cut.length).fill(0)];
    },
  };
}

/**
 * Tokens of single bytes, and the spelling by which merges name each of them.
 *
 * In the list of merges a character stands for every byte: printable bytes, which come first, for themselves, the others
 * from U+0100 on.
 */
function alphabet(): {ids: Map<string, number>; tokenOf: number[]} {
  const printable = (byte: number) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  const bytes = Array.from({length: 256}, (_, byte) => byte);
  const [first, rest] = [bytes.filter(printable), bytes.filter((byte) => !printable(byte))];
  const ids = new Map<string, number>();
  const tokenOf: number[] = [];
  [...first, ...rest].forEach((byte, token) => {
    const character = String.fromCharCode(token < first.length ? byte : 0x100 + token - first.length);
    ids.set(character, token);
    ids.set(character + WORD_END, 256 + token);
    tokenOf[byte] = token;
  });
  return {ids, tokenOf};
}

const ENTITY = /&(?:#(\d+)|#[xX]([\da-fA-F]+)|(amp|lt|gt|quot|apos)\b);?/g;
const NAMED: Record<string, string> = {amp: '&', lt: '<', gt: '>', quot: '"', apos: "'"};

function replaceEntities(text: string): string {
  return text.replace(ENTITY, (_, decimal, hexadecimal, name) => {
    if (name) return NAMED[name]!;
    const code = decimal ? Number(decimal) : parseInt(hexadecimal, 16);
    const character = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000);
    return character ? String.fromCodePoint(code) : '\ufffd';
  });
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: ftfy removes these characters
const CONTROL = /[\0-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g;
// Ligatures, wide and narrow forms.
const COMPATIBLE = /[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06\uff01-\uffef]/g;

/**
 * Clean a text before it is split.
 *
 * open_clip repairs texts with ftfy. This repeats its treatment of curly quotes, ligatures, widths, control characters
 * and Unicode's composed form; it omits texts in a wrong encoding and escape sequences of terminals. Of HTML's entities
 * it replaces the numeric ones and the five of XML. White space needs no cleaning: any of it separates words.
 */
function clean(text: string): string {
  return replaceEntities(replaceEntities(text))
    .replace(COMPATIBLE, (character) => character.normalize('NFKC'))
    .replace(/[\u02bc\u2018-\u201b]/g, "'")
    .replace(/[\u201c-\u201f]/g, '"')
    .replace(CONTROL, '')
    .normalize('NFC')
    .toLowerCase();
}
