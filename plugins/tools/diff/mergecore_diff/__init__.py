"""What models differ in before they are merged, and a recipe that fits them."""
