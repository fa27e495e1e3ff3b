/**
 * Fetching files: whole ones over plain HTTP, from this site only. Every failure becomes a `LoadError` with the
 * file, what was expected and what came.
 */

import { FILES } from './glossary/files.js'

/** What went wrong, in words. @param {unknown} error @returns {string} */
export function reasonOf(error) {
  return error instanceof Error ? error.message : String(error)
}

/** A file that could not be read; the three parts are shown to the reader. */
export class LoadError extends Error {
  /** @param {string} file address of the file @param {string} expected @param {string} received */
  constructor(file, expected, received) {
    super(FILES.summary(file, expected, received))
    this.name = 'LoadError'
    this.file = file
    this.expected = expected
    this.received = received
  }
}

/**
 * Checks a path that comes from an atlas and writes it as a URL below `base`: plain segments only, so that a table can
 * never point off the atlas's own folder.
 * @param {string} base URL of a folder, ending in "/"
 * @param {string} path relative, with forward slashes
 * @returns {string}
 */
export function resolvePath(base, path) {
  const segments = typeof path === 'string' ? path.split('/') : []
  const plain =
    segments.length > 0 &&
    segments.every((segment) => segment !== '' && segment !== '.' && segment !== '..' && !/[\\\0:?#%]/.test(segment))
  if (!plain) {
    throw new LoadError(String(path), FILES.plainPath, FILES.refusedPath)
  }
  return base + segments.map(encodeURIComponent).join('/')
}

/**
 * Fetches a whole file.
 * @param {string} url
 * @param {string} expected in words, for the message
 * @param {RequestInit} [options]
 * @returns {Promise<ArrayBuffer>}
 */
export async function fetchBytes(url, expected, options = {}) {
  let response
  try {
    response = await fetch(url, { credentials: 'same-origin', ...options })
  } catch (error) {
    throw new LoadError(url, expected, FILES.noAnswer(reasonOf(error)))
  }
  if (!response.ok) throw new LoadError(url, expected, `HTTP ${response.status} ${response.statusText}`.trim())
  try {
    return await response.arrayBuffer()
  } catch (error) {
    throw new LoadError(url, expected, FILES.cutOff(reasonOf(error)))
  }
}

/**
 * Fetches and parses a JSON file.
 * @param {string} url
 * @param {string} expected
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export async function fetchJson(url, expected, options = {}) {
  const text = new TextDecoder().decode(await fetchBytes(url, expected, options))
  try {
    return JSON.parse(text)
  } catch {
    throw new LoadError(url, expected, FILES.notJson(text.slice(0, 60).trim()))
  }
}
