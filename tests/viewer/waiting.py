"""What the browser's tests wait for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page


def wait_for_address(page: "Page", condition: str) -> None:
    """Wait until an expression over `location.hash` holds and the view of that address has come."""
    page.wait_for_function(f"() => !document.querySelector('[data-coming]') && ({condition})")
