"""One small HEIC picture, 96 x 64 px of four colours, stored turned by 90 degrees; nothing here can write another.

Made with pillow-heif: Image.fromarray(numpy.rot90(pixels)).save(..., "HEIF", quality=90, exif=<orientation 6>).
"""

import base64

HEIC = base64.b85decode(
    "0000SW^{RQXk}@500000ZE0pPXk}@5ZE0a<0004?ZDn*}000000000XXk=`10000000000aA{+700000000000000000000G-"
    "+&aV*mgE07O6l0ssL300001!~g*R00000008O$0ssI200OQ60RR9100000Bme*aIB98aW&i*H00062000$fZf0cy000000RRAKc4"
    "ILB0000LX>Mj^0ssI300IC2MR;ju000004sdC7Z2$lO00031007@<aB^?}006&faAR)(004Jrc4I>U1PA~C0G>Di0000U@BsY(`1"
    "k+-"
    "4+CHT0RR_30Sp2E{{#pC00RJ?H~;_x0017k0zhE^0RSpO0RaRE00093o;Uyi0{{RXkOUAgvfW7~HO;_7L4g1O0{|HS00RI42x0&M"
    "00=|@!E%NS0we$c025<xY;ta6Y<K_x01W^JfB*mh6lrsCWdHyG00000KmY&$U;qFB5O8UDX#fBK00RgJ2mk;832Aa~bOQhY02pa-"
    "ZD9Za00000009621%Uzs1cd+q02*m>Wo7^X0000001jhhb7KGk009620003NZDe6|0002yC;_hqI9mMuH{{;`|NO6A|Nn=)n+ad;"
    "66K}+NvW*<S3X!vpR4t4VdJc<t@@8ATuis?%3B616@nTBk?;kr4L!T`w11MTJ<^bbAwRhmw*WRmh%6C)F*$U+HY+C*%IlIHC~ywX"
    "3E)}`!*#Dwg3C>>&6H$&ars!m$-"
    "Y06s1m=TRpI+2`~NIPF1$E4*{V`P!)~#Dca92irtXY9;YYFFukQO_<Q|ejbPtKEocinQMD%Z~2E1T9=;R|<UJmq7S*^^%_ddR)ZA"
    "2oO41#ZVW4z^1Sap^^d7P<5Z~-2cLR$a;00u>PX=VTbO-%qQ000080099K00RI30096700000000"
)
