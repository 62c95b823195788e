//! Promise: whoever is not of the cluster gets nothing from its port, costs little, and disturbs nobody.
