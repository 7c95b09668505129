/** The page's own texts, in the languages of texts/*.json, and numbers as text. */

import {createContext, useContext} from 'react';

import {keep, kept} from './kept.js';
import de from './texts/de.json';
import en from './texts/en.json';
import es from './texts/es.json';
import fr from './texts/fr.json';

type Key = keyof typeof en;
/** Keys of texts that differ by number: counted by `Intl.PluralRules`. */
type CountedKey = Key extends infer K ? (K extends `${infer Stem}_other` ? Stem : never) : never;

/** A language lacks no text: that would be an error of types. */
const TEXTS: Record<string, Record<Key, string>> = {en, de, es, fr};
export const LANGUAGES = Object.keys(TEXTS);
const KEPT = 'bioclip-language';

export interface Texts {
  /** BCP 47, of the names of taxa; the page is English where it has no texts of this language. */
  language: string;
  /** Text of a key; `{name}` in it gives way to the value of that name. */
  t(key: Key, values?: Record<string, string>): string;
  /** Text of a key that depends on a number, which stands for `{count}`. */
  counted(key: CountedKey, count: number): string;
  /** Name of a rank; one that the page does not know as it is. */
  rank(rank: string): string;
  number(value: number): string;
  /** "1.2 million", "860 thousand". */
  about(value: number): string;
}

export function textsOf(language: string): Texts {
  const spoken = TEXTS[language] ? language : 'en';
  const texts = TEXTS[spoken];
  const plural = new Intl.PluralRules(spoken);
  const plain = new Intl.NumberFormat(spoken);
  const compact = new Intl.NumberFormat(spoken, {
    notation: 'compact',
    compactDisplay: 'long',
    maximumFractionDigits: 1,
  });
  const fill = (text: string, values: Record<string, string>) =>
    text.replace(/\{(\w+)\}/g, (whole, name: string) => values[name] ?? whole);
  return {
    language,
    t: (key, values = {}) => fill(texts[key], values),
    counted: (key, count) => {
      const form = plural.select(count) === 'one' ? 'one' : 'other';
      return fill(texts[`${key}_${form}` as Key], {count: plain.format(count)});
    },
    rank: (rank) => texts[`rank.${rank}` as Key] ?? rank,
    number: (value) => plain.format(value),
    about: (value) => (value < 1e4 ? plain.format(value) : compact.format(value)),
  };
}

export const TextsContext = createContext(textsOf('en'));
export const useTexts = () => useContext(TextsContext);

/** Find the language that the visitor chose before, else the first of the browser that the page or the model speaks. */
export function firstLanguage(available: readonly string[]): string {
  const wanted = [kept(KEPT), ...navigator.languages.map((tag) => tag.split('-')[0])];
  return wanted.find((code) => code !== null && available.includes(code)) ?? 'en';
}

export const keepLanguage = (language: string) => keep(KEPT, language);

/** "Deutsch" for "de". */
export function languageName(code: string): string {
  try {
    return new Intl.DisplayNames([code], {type: 'language'}).of(code) ?? code;
  } catch {
    return code; // not a code that browsers support
  }
}
