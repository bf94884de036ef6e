"""Values under conversion: layouts, held back constants, and the operators that move them."""
