"""What is multiplied: losses made into operators, data sets, products, the plan of memory."""
