"""Key-value stores through which ranks find each other where there is no MPI."""
