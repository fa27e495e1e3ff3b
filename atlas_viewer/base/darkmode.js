/** Whether the page is dark: by the reader's choice, else by the system's. */

export const darkPreference = matchMedia('(prefers-color-scheme: dark)')

/** @returns {boolean} */
export function isDark() {
  const chosen = document.documentElement.dataset.theme
  return chosen ? chosen === 'dark' : darkPreference.matches
}
