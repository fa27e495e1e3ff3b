// Runs before the first paint (a classic script in <head>), so that a saved theme does not flash.
// A browser that refuses storage keeps the theme of the system.
;(function applySavedTheme() {
  let saved = null
  try {
    saved = localStorage.getItem('neuron-atlas-theme')
  } catch {
    saved = null
  }
  if (saved === 'light' || saved === 'dark') document.documentElement.dataset.theme = saved
})()
