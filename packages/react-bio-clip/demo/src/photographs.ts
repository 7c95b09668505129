/** Photographs from files, from drag and drop and from the clipboard. */

export interface Photo {
  bitmap: ImageBitmap;
  /** Object URL, to show it; `release` when it is no longer shown. */
  url: string;
  name: string;
  release: () => void;
}

/**
 * Decode upright and without colour profiles, as in training.
 *
 * @throws Error for a file that is no image this browser can decode
 */
export async function openPhoto(file: File): Promise<Photo> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, {colorSpaceConversion: 'none'});
  } catch {
    const hint = /\.hei[cf]$/i.test(file.name) ? ' Save it as JPEG first: this browser cannot open HEIC.' : '';
    throw new Error(`${file.name || 'The image'} is no photograph that this browser can open.${hint}`);
  }
  const url = URL.createObjectURL(file);
  const release = () => {
    URL.revokeObjectURL(url);
    bitmap.close();
  };
  return {bitmap, url, name: file.name, release};
}

/** The first image among dropped or pasted things; null if there is none. */
export function imageIn(items: DataTransfer | null): File | null {
  const files = [...(items?.files ?? [])];
  return files.find((file) => file.type.startsWith('image/')) ?? files[0] ?? null;
}
