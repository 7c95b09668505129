/** Photographs from files, from drag and drop and from the clipboard. */

import type {Texts} from './texts.js';

export interface Photo {
  bitmap: ImageBitmap;
  /** Object URL, to show it; `release` when it is no longer shown. */
  url: string;
  name: string;
  release: () => void;
}

/** Decode upright and without colour profiles, as in training. Throws for a file that this browser cannot decode. */
export const decode = (file: Blob) => createImageBitmap(file, {colorSpaceConversion: 'none'});

/** Open a photograph to show it and to classify it; null for a file that is no image this browser can decode. */
export async function openPhoto(file: File): Promise<Photo | null> {
  const bitmap = await decode(file).catch(() => null);
  if (!bitmap) return null;
  const url = URL.createObjectURL(file);
  const release = () => {
    URL.revokeObjectURL(url);
    bitmap.close();
  };
  return {bitmap, url, name: file.name, release};
}

/** Sentence about a file that cannot be decoded. */
export function unreadable(name: string, {t}: Texts): string {
  const told = t('file.none', {name: name || t('file.unnamed')});
  return /\.hei[cf]$/i.test(name) ? `${told} ${t('file.heic')}` : told;
}

/** The images among dropped or pasted files; all files if there is no image, whose names then say what is wrong. */
export function imagesIn(items: DataTransfer | null): File[] {
  const files = [...(items?.files ?? [])];
  const images = files.filter((file) => file.type.startsWith('image/'));
  return images.length ? images : files;
}
