/**
 * Layers in file names and ids. Modules may be called anything, such as `/features/0/Conv`: a character other than
 * letters, digits, `_` and `.` is written as `-` and two hexadecimal digits for each of its bytes, as `layer_file_name`
 * of pipeline/neurons.py does. Pure functions.
 */

/** @param {string} layer @returns {string} */
export function layerFileName(layer) {
  const name = [...new TextEncoder().encode(layer)]
    .map((byte) => {
      const character = String.fromCharCode(byte)
      return /[A-Za-z0-9_.]/.test(character) ? character : `-${byte.toString(16).toUpperCase().padStart(2, '0')}`
    })
    .join('')
  return name.startsWith('-') ? `_-${name}` : name
}

/** @param {string} name @returns {string} the layer, or the name itself where it is none of `layerFileName` */
export function layerOfFileName(name) {
  const plain = name.startsWith('_--') ? name.slice(2) : name
  const layer = plain.replace(/(-[0-9A-F]{2})+/g, (bytes) =>
    new TextDecoder().decode(Uint8Array.from(bytes.split('-').slice(1), (digits) => Number.parseInt(digits, 16))),
  )
  return layerFileName(layer) === name ? layer : name
}
