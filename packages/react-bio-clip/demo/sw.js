/**
 * Store the page for offline use. The build writes PAGE, its version and files, above.
 *
 * The page itself stores the model, by content.
 */

const PREFIX = 'bioclip-page-';
const CACHE = PREFIX + PAGE.version;
const START = new URL('./', self.location);

self.addEventListener('install', (event) => {
  const requests = PAGE.files.map((file) => new Request(file, {cache: 'reload'}));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

self.addEventListener('activate', (event) => {
  const tidy = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim(); // so that the page works offline from the first visit
  };
  event.waitUntil(tidy());
});

self.addEventListener('fetch', (event) => {
  const {request} = event;
  const url = new URL(request.url);
  if (request.method === 'POST' && url.href === new URL('share', START).href) event.respondWith(share(request));
  if (request.method !== 'GET' || !url.href.startsWith(START.href)) return;
  const name = url.pathname.slice(START.pathname.length);
  if (request.mode === 'navigate' && ['', 'index.html'].includes(name)) event.respondWith(stored(request, START));
  else if (name && (PAGE.files.includes(name) || name.startsWith('assets/')))
    event.respondWith(stored(request, request));
});

/** Keep photographs that another application shares (manifest.webmanifest) until the page takes them (shared.ts). */
async function share(request) {
  const shelf = await caches.open('bioclip-shared');
  const files = (await request.formData()).getAll('photographs');
  const put = (file, i) => shelf.put(new URL(`share/${i}/${encodeURIComponent(file.name)}`, START), new Response(file));
  await Promise.all(files.map(put));
  return Response.redirect(new URL('#field', START), 303);
}

/** File names carry a hash of their content, so stored files never go stale; a new page is a new version. */
async function stored(request, key) {
  const cache = await caches.open(CACHE);
  // Ignore a server's Vary: Origin: this page has one origin.
  const known = await cache.match(key, {ignoreSearch: true, ignoreVary: true});
  if (known) return known;
  const answer = await fetch(request);
  if (answer.ok) await cache.put(key, answer.clone());
  return answer;
}
