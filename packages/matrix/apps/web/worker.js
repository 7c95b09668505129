import 'react-bio-clip/worker';
