import {StrictMode} from 'react';
import {createRoot} from 'react-dom/client';

import {App} from './App.js';
import './style.css';

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <App />
  </StrictMode>,
);

// Pages from a file, or over plain http from another machine, have no service worker, so they do not work offline.
if (import.meta.env.PROD && location.protocol !== 'file:') {
  navigator.serviceWorker?.register('./sw.js').catch((error: unknown) => console.warn('not available offline:', error));
}
