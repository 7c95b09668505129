/**
 * Keeps the page for use without a network. PAGE, its version and files, is written above by the build.
 *
 * The model is not its business: the page keeps that itself, by content.
 */

const PREFIX = 'bioclip-page-';
const CACHE = PREFIX + PAGE.version;
const START = new URL('./', self.location);

self.addEventListener('install', (event) => {
  const files = self.crossOriginIsolated ? [...PAGE.files, ...PAGE.threads] : PAGE.files;
  const requests = files.map((file) => new Request(file, {cache: 'reload'}));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

self.addEventListener('activate', (event) => {
  const tidy = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim(); // so that the first visit is already one that works offline
  };
  event.waitUntil(tidy());
});

self.addEventListener('fetch', (event) => {
  const {request} = event;
  const url = new URL(request.url);
  if (request.method !== 'GET' || !url.href.startsWith(START.href)) return;
  const name = url.pathname.slice(START.pathname.length);
  if (request.mode === 'navigate' && ['', 'index.html'].includes(name)) event.respondWith(stored(request, START));
  else if (name && (PAGE.files.includes(name) || name.startsWith('assets/')))
    event.respondWith(stored(request, request));
});

/** File names carry a hash of their content, so what is stored never grows old; a new page is a new version. */
async function stored(request, key) {
  const cache = await caches.open(CACHE);
  // Servers that vary by origin mean other origins; this page is of one.
  const known = await cache.match(key, {ignoreSearch: true, ignoreVary: true});
  if (known) return known;
  const answer = await fetch(request);
  if (answer.ok) await cache.put(key, answer.clone());
  return answer;
}
