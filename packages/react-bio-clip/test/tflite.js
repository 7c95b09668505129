/** A stand-in for react-native-fast-tflite whose model gives the mean colour, as that of fixture.js does. */

/** `tflite` loads it; `asked` has the arguments of each call. `size` is the side of the model's input. */
export function standInOf(size) {
  const asked = [];
  const tflite = async (...given) => {
    asked.push(given);
    return {
      async run([input]) {
        if (!(input instanceof ArrayBuffer)) throw new Error('inputs are ArrayBuffers');
        const values = new Float32Array(input);
        if (values.length !== size * size * 3) throw new Error(`${values.length} numbers`);
        const means = [0, 1, 2].map((c) => values.filter((_, i) => i % 3 === c).reduce((a, b) => a + b) / size ** 2);
        return [Float32Array.from(means).buffer];
      },
    };
  };
  return {asked, tflite};
}
