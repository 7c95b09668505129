/** Photographs that other applications share with the installed page: sw.js keeps them until the page takes them. */

const SHARED = 'bioclip-shared';

export async function sharedFiles(): Promise<File[]> {
  if (!('caches' in globalThis) || !(await caches.has(SHARED))) return [];
  const shelf = await caches.open(SHARED);
  const files = await Promise.all(
    (await shelf.keys()).map(async (request) => {
      const blob = await (await shelf.match(request))!.blob();
      return new File([blob], decodeURIComponent(request.url.split('/').at(-1)!), {type: blob.type});
    }),
  );
  await caches.delete(SHARED);
  return files;
}
