const {getDefaultConfig} = require('@react-native/metro-config');

const config = getDefaultConfig(__dirname);
config.resolver.assetExts.push('bin'); // the files of the bundle
module.exports = config;
