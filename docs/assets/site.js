// What scrolls sideways can be reached and scrolled by keyboard.
document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre").forEach((box) => { box.tabIndex = 0; });
// Tables are wrapped after this script has run.
new MutationObserver(() => {
  document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])").forEach((box) => { box.tabIndex = 0; });
}).observe(document.body, { childList: true, subtree: true });
